/// Tokenizers in all their forms, through the command and beside it: exact texts, older folders, hostile files, threads.
module Hybrid.Tests.TokenizeCommandTests

open System
open System.Collections.Concurrent
open System.IO
open System.Text
open System.Text.Json
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Running

/// A tokenizer of whole words, with added tokens of every kind of edge.
let private words (added: string) =
    """{"version":"1.0","truncation":null,"padding":null,"added_tokens":[ADDED],"normalizer":NORMALIZER,
"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":DECODER,
"model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"a":1,"b":2,"cat":3}}}"""
        .Replace("ADDED", added)
        .Replace("NORMALIZER", "null")
        .Replace("DECODER", "null")

let private token (id: int) (content: string) (changes: string) =
    let text =
        $$"""{"id":{{id}},"content":"{{content}}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false}"""

    if changes = "" then text else text.Replace($"\"{changes}\":false", $"\"{changes}\":true")

let private withTokenizer (text: string) (test: HuggingFaceTokenizer -> unit) =
    use folder = new Folder()
    use tokenizer = HuggingFaceTokenizer.Open(folder.Write("tokenizer.json", text))
    test tokenizer

let private refusedAs (part: string) (text: string) =
    use folder = new Folder()
    let path = folder.Write("hostile.json", text)
    let message = refusal (fun () -> HuggingFaceTokenizer.Open(path).Dispose())
    Expect.stringContains message part "the reason"
    Expect.stringContains message path "the file"

/// GPT-2's tokenizer in two files, as its authors gave it out.
let private apart (folder: string) =
    use whole = JsonDocument.Parse(File.ReadAllBytes(Material.shared "data/gpt2_tokenizer/tokenizer.json"))
    let model = whole.RootElement.GetProperty "model"
    File.WriteAllText(Path.Combine(folder, "vocab.json"), (model.GetProperty "vocab").GetRawText())

    File.WriteAllLines(
        Path.Combine(folder, "merges.txt"),
        [
            "#version: 0.2"
            for merge in (model.GetProperty "merges").EnumerateArray() do
                string (merge.GetString())
        ]
    )

let private exact =
    testCase "a file is taken to its last character, and refused where it is no UTF-8" (fun () ->
        let tokenizer = Material.shared "data/gpt2_tokenizer"
        use folder = new Folder()
        use reference = HuggingFaceTokenizer.Open tokenizer

        let ids (arguments: string list) =
            [|
                for id in ((result ("tokenize" :: "--tokenizer" :: tokenizer :: arguments)).GetProperty "ids").EnumerateArray() ->
                    id.GetInt32()
            |]

        let path = folder.At "text"

        for text in [ ""; "\uFEFFa\r\nb\r\n\n"; "a\000b \000"; "🙂 e\u0301\t  x  " ] do
            File.WriteAllText(path, text, UTF8Encoding false)
            Expect.equal (ids [ "--file"; path ]) (reference.Encode(text, false)) text

        Expect.equal (ids [ "--text=--json" ]) (reference.Encode("--json", false)) "a text like an option"
        Expect.equal (ids [ "--text="; "--special" ]) [||] "no text, and no marks"

        for bytes, offset in
            [ [| 97uy; 98uy; 0xFFuy |], 2; [| 0xFFuy; 0xFEuy; 97uy; 0uy |], 0; [| 97uy; 0xEDuy; 0xA0uy; 0x80uy |], 1 ] do
            File.WriteAllBytes(path, bytes)
            let code, output, errors = program [ "tokenize"; "--tokenizer"; tokenizer; "--file"; path; "--json" ]
            Expect.equal (code, output) (1, "") "refused"
            Expect.stringContains errors $"offset {offset}" "the place"
            Expect.stringContains errors "UTF-8" "the reason"

        let code, _, errors = program [ "tokenize"; "--tokenizer"; tokenizer; "--decode"; "50256 50257" ]
        Expect.equal code 1 "an id that no token has"
        Expect.stringContains errors "50257" "the id is named"

        let text (arguments: string list) =
            string (
                ((result ([ "tokenize"; "--tokenizer"; tokenizer; "--decode"; "15496 50256 995" ] @ arguments)).GetProperty
                    "text")
                    .GetString()
            )

        Expect.equal (text []) "Hello world" "special tokens are left out"
        Expect.equal (text [ "--special" ]) "Hello<|endoftext|> world" "or kept")

let private folders =
    testCase "a folder with vocab.json and merges.txt gives the ids of its tokenizer.json" (fun () ->
        use whole = HuggingFaceTokenizer.Open(Material.shared "data/gpt2_tokenizer")

        inFolder (fun folder ->
            apart folder

            let texts = File.ReadAllText(Material.shared "data/gpt2_tokenizer/vectors.inp").Split "\n__ggml_vocab_test__\n"

            for path in [ folder; Path.Combine(folder, "vocab.json"); Path.Combine(folder, "merges.txt") ] do
                use tokenizer = HuggingFaceTokenizer.Open path
                Expect.equal tokenizer.VocabularySize 50257 "vocabulary"
                Expect.equal (Option.ofNullable tokenizer.EndId) (Some 50256) "end"

                for text in Array.append texts [| "a<|endoftext|>b" |] do
                    let ids = whole.Encode(text, false)
                    Expect.equal (tokenizer.Encode(text, false)) ids text
                    Expect.equal (tokenizer.Decode ids) (whole.Decode ids) text

            // What was added to the vocabulary, special or not, in any order.
            File.WriteAllText(Path.Combine(folder, "added_tokens.json"), """{"<b>": 50258, "<a>": 50257}""")

            File.WriteAllText(
                Path.Combine(folder, "special_tokens_map.json"),
                """{"eos_token": {"content": "<a>"}, "additional_special_tokens": ["<none>"]}"""
            )

            use tokenizer = HuggingFaceTokenizer.Open folder
            Expect.equal (tokenizer.Encode("<b>x<a><none>", false)[..2]) [| 50258; 87; 50257 |] "added tokens"
            Expect.equal (tokenizer.Decode [| 50258; 87; 50257 |]) "<b>x" "the special one is left out"
            use copy = HuggingFaceTokenizer.Open(Path.Combine(folder, "vocab.json"))
            Expect.equal copy.Sha256 tokenizer.Sha256 "the same tokenizer"
            File.WriteAllBytes(Path.Combine(folder, "copy.json"), tokenizer.Content.ToArray())
            use written = HuggingFaceTokenizer.Open(Path.Combine(folder, "copy.json"))
            Expect.equal (written.Encode("<b>x<a>", false)) [| 50258; 87; 50257 |] "its content is a tokenizer.json"

            let refused (part: string) =
                Expect.stringContains (refusal (fun () -> HuggingFaceTokenizer.Open(folder).Dispose())) part "the reason"

            File.WriteAllText(Path.Combine(folder, "merges.txt"), "#version: 0.2\na b c\n")
            refused "merges.txt, line 2"
            File.WriteAllText(Path.Combine(folder, "vocab.json"), """{"a</w>": 0, "b": 1}""")
            File.WriteAllText(Path.Combine(folder, "merges.txt"), "")
            refused "byte-level"
            File.Delete(Path.Combine(folder, "merges.txt"))
            File.WriteAllBytes(Path.Combine(folder, "tokenizer.model"), [| 0x0Auy; 0x0Euy; 0x0Auy; 5uy; yield! "<unk>"B |])
            refused "AutoTokenizer"

            Expect.stringContains
                (refusal (fun () -> HuggingFaceTokenizer.Open(Path.Combine(folder, "tokenizer.model")).Dispose()))
                "SentencePiece"
                "a model of SentencePiece"

            File.Delete(Path.Combine(folder, "tokenizer.model"))
            refused "neither tokenizer.json"))

let private edges =
    testCase "added tokens: edges, words of their own, ids that the file gives wrong" (fun () ->
        let encode (added: string list) (text: string) =
            let mutable ids = [||]
            withTokenizer (words (String.concat "," added)) (fun tokenizer -> ids <- tokenizer.Encode(text, false))
            ids

        Expect.equal (encode [ token 4 "<x>" "" ] "a<x>b") [| 1; 4; 2 |] "inside a word"
        Expect.equal (encode [ token 4 "cat" "single_word" ] "cat cats") [| 3; 0 |] "one that the model has keeps its id"
        Expect.equal (encode [ token 4 "dog" "single_word" ] "dog dogs adog") [| 4; 0; 0 |] "single words"

        Expect.equal
            (encode [ token 4 "<x>" "lstrip"; token 5 " " "" ] "a  <x> b")
            [| 1; 5; 5; 4; 5; 2 |]
            "matches come before edges"

        Expect.equal (encode [ token 4 "<x>" "rstrip" ] "a<x>   b") [| 1; 4; 2 |] "spaces after it are its own"

        withTokenizer
            (words (String.concat "," [ token 9 "<x>" "special"; token 7 "<y>" ""; token 3 "cat" "" ]))
            (fun tokenizer ->
                Expect.equal (tokenizer.Encode("<y><x>cat", false)) [| 5; 4; 3 |] "numbered on from the model's tokens"
                Expect.equal tokenizer.VocabularySize 6 "and counted so"
                Expect.equal (tokenizer.Decode([| 4; 5 |], true)) "<x> <y>" "and back"
                Expect.stringContains (string tokenizer.Warning) "<x>" "a person is told")

        withTokenizer (words (token 4 "<x>" "")) (fun tokenizer -> Expect.isNull tokenizer.Warning "nothing to tell"))

let private hostile =
    testCase "what would end the native library is refused" (fun () ->
        let base64 (bytes: byte[]) = Convert.ToBase64String bytes

        let units (count: int) (set: (int * uint32) list) =
            let all = Array.zeroCreate<uint32> count

            for place, unit in set do
                all[place] <- unit

            all |> Array.collect BitConverter.GetBytes

        let charsMap (trie: byte[]) (texts: byte[]) = base64 (Array.concat [ BitConverter.GetBytes trie.Length; trie; texts ])

        let precompiled (map: string) =
            (words "")
                .Replace(
                    "\"normalizer\":null",
                    $$"""\u0022normalizer\u0022:{"type":"Precompiled","precompiled_charsmap":"{{map}}"}"""
                        .Replace("\\u0022", "\"")
                )

        // One path: the byte a (0x61) leads to a leaf whose value is 0.
        let node offset leaf label = (uint32 offset <<< 10) ||| (if leaf then 0x100u else 0u) ||| uint32 label
        let sound = charsMap (units 256 [ 0, node 0 false 0; 0x61, node 0x10 true 0x61; 0x71, 0x80000000u ]) "cat\000"B

        withTokenizer (precompiled sound) (fun tokenizer ->
            Expect.equal (tokenizer.Encode("a", false)) [| 3 |] "a table that is sound replaces")

        refusedAs "trie" (precompiled (charsMap (units 256 [ 0, node 0 false 0; 0x61, node 0x3FF0 true 0x61 ]) "cat\000"B))

        refusedAs
            "replacement"
            (precompiled (charsMap (units 256 [ 0, node 0 false 0; 0x61, node 0x10 true 0x61; 0x71, 0x80000063u ]) "cat\000"B))

        refusedAs "not UTF-8" (precompiled (charsMap (units 256 []) [| 0xFFuy |]))
        refusedAs "trie has" (precompiled (base64 [| 0uy; 4uy; 0uy; 0uy; 1uy |]))
        refusedAs "Base64" (precompiled "?")
        refusedAs "has 1 bytes" (precompiled (base64 [| 0uy |]))

        refusedAs
            "Strip"
            ((words "").Replace("\"decoder\":null", """"decoder":{"type":"Strip","content":" ","start":0,"stop":1}"""))

        refusedAs "FixedLength" ((words "").Replace("{\"type\":\"WhitespaceSplit\"}", """{"type":"FixedLength","length":0}"""))

        let merges (right: string) =
            (words "")
                .Replace(
                    "\"type\":\"WordLevel\"",
                    "\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\",\"merges\":[[\"a\",\"" + right + "\"]]"
                )
                .Replace("\"b\":2", "\"##b\":2,\"ab\":4,\"é\":5,\"b\":6")

        withTokenizer (merges "##b") (fun tokenizer -> Expect.equal tokenizer.VocabularySize 7 "a prefix that is there")
        refusedAs "continuing_subword_prefix" (merges "b")
        // A dropout would give other ids each time.
        let dropped = (merges "##b").Replace("\"unk_token\"", "\"dropout\":0.9,\"unk_token\"")

        withTokenizer dropped (fun tokenizer ->
            for _ in 1..20 do
                Expect.equal (tokenizer.Encode("ab", false)) [| 4 |] "the same ids every time"))

let private halves =
    testCase "half of a surrogate pair is refused by its place" (fun () ->
        withTokenizer (words "") (fun tokenizer ->
            // The compiler replaces half a pair within quotes.
            let high, low = string (char 0xD83D), string (char 0xDE42)

            for text, place in [ high, 0; $"a{low}b", 1; "🙂" + high, 2; high + "a" + low, 0 ] do
                let message = refusal (fun () -> tokenizer.Encode(text, false) |> ignore)
                Expect.stringContains message $"character {place} is half of a surrogate pair" "the place"))

let private threads =
    testCase "several threads get the ids that one gets" (fun () ->
        use tokenizer = HuggingFaceTokenizer.Open(Material.shared "data/gpt2_tokenizer")
        let text = File.ReadAllText(Material.shared "data/gpt2_tokenizer/vectors.inp")
        let text = text |> Seq.filter (Char.IsSurrogate >> not) |> Array.ofSeq |> String
        let pieces = [| for i in 0..199 -> text.Substring(i, min 400 (text.Length - i)) |]
        let alone = pieces |> Array.map (fun piece -> tokenizer.Encode(piece, false))
        let wrong = ConcurrentBag<int>()

        Parallel.For(
            0,
            4 * pieces.Length,
            ParallelOptions(MaxDegreeOfParallelism = 8),
            fun i ->
                let place = i % pieces.Length
                let ids = tokenizer.Encode(pieces[place], false)

                if ids <> alone[place] || tokenizer.Decode ids <> pieces[place] then
                    wrong.Add place
        )
        |> ignore

        Expect.isEmpty wrong "pieces that came out otherwise")

let private long =
    testCase "a long text without a space goes through" (fun () ->
        use tokenizer = HuggingFaceTokenizer.Open(Material.shared "data/gpt2_tokenizer")
        let ids = tokenizer.Encode(String('a', 300_000), false)
        Expect.equal (tokenizer.Decode ids) (String('a', 300_000)) "back to text"
        let spaces = String(' ', 300_000) + "x"
        Expect.equal (tokenizer.Decode(tokenizer.Encode(spaces, false))) spaces "spaces"

        // A pattern that goes back over all spaces of a row, as Llama 3's does.
        let pattern =
            """{"type":"Split","pattern":{"Regex":"\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Removed","invert":false}"""

        withTokenizer ((words "").Replace("""{"type":"WhitespaceSplit"}""", pattern)) (fun tokenizer ->
            Expect.equal (tokenizer.Encode("a" + String(' ', 100_000) + "b", false)) [| 1; 2 |] "many spaces"

            Expect.stringContains
                (refusal (fun () -> tokenizer.Encode(String(' ', 12_000_000) + "x", false) |> ignore))
                "in a row"
                "more spaces than the library can go back over"))

let private bench =
    testCase "bench prepare measures what it is given, and says what it needs" (fun () ->
        let code, output, errors = program [ "bench"; "prepare"; "--json" ]
        Expect.equal (code, output) (2, "") "nothing to measure"
        Expect.stringContains errors "gutenberg" "where public text is"
        let code, _, errors = program [ "bench"; "prepare"; "--text-tokenizer"; "t"; "--image-size"; "8" ]
        Expect.equal code 2 "half of what is needed"
        Expect.stringContains errors "go together" "what is missing"
        Expect.stringContains errors "--pictures" "and the other"

        use folder = new Folder()
        let text = folder.Write("book.txt", String.replicate 2000 "a cat b\n")
        let tokenizer = folder.Write("tokenizer.json", words "")
        let _, pixels = World.pair 1L Split.Train 0L
        File.WriteAllBytes(folder.At "a.png", Pictures.EncodePng(Picture(64, 64, pixels)))

        let found =
            result
                [
                    "bench"
                    "prepare"
                    "--text-tokenizer"
                    tokenizer
                    "--text"
                    text
                    "--pictures"
                    folder.At "."
                    "--threads"
                    "2"
                    "--seconds"
                    "0.05"
                    "--image-size"
                    "32"
                ]

        let figure (part: string) (key: string) = ((found.GetProperty part).GetProperty key).GetDouble()
        Expect.equal (figure "text" "bytes") 16000.0 "bytes of the text"
        // Three tokens of eight bytes each time.
        Expect.floatClose
            Accuracy.high
            (figure "text" "single_tokens_per_second" * 8.0)
            (figure "text" "single_megabytes_per_second" * 3e6)
            "tokens and bytes are of one time"

        for key in [ "single_pictures_per_second"; "multi_pictures_per_second" ] do
            Expect.isGreaterThan (figure "pictures" key) 0.0 key

        Expect.isGreaterThan ((found.GetProperty "peak_rss_bytes").GetInt64()) 10_000_000L "memory")

let tests = testList "TokenizeCommand" [ exact; folders; edges; hostile; halves; threads; long; bench ]

module Hybrid.Tests.TokenizerTests

open System
open System.IO
open System.Text
open System.Text.Json
open Expecto
open FsCheck
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport

/// A byte-level tokenizer of six tokens with marks, truncation and padding.
let private small =
    """{"version":"1.0","truncation":{"direction":"Right","max_length":3,"strategy":"LongestFirst","stride":0},
"padding":{"strategy":{"Fixed":8},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"<s>"},
"added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
{"id":6,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],
"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":0}}],
"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]},"</s>":{"id":"</s>","ids":[6],"tokens":["</s>"]}}}]},
"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
"ignore_merges":false,"vocab":{"<s>":0,"a":1,"b":2,"ab":3,"c":4,"Ġ":5},"merges":[["a","b"]]}}"""

let private withFile (text: string) (test: string -> unit) : unit =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "damaged.json")
        File.WriteAllText(path, text)
        test path)

let private refusedWith (text: string) (part: string) : unit =
    withFile text (fun path ->
        let message = refusal (fun () -> HuggingFaceTokenizer.Open(path).Dispose())
        Expect.stringContains message part "the reason"
        Expect.stringContains message path "the file")

/// Two bytes changed for printable ones, anywhere.
let private scribble (seed: int) (text: byte[]) : byte[] =
    let stream = Random.ofSeed (int64 seed)
    let bytes = Array.copy text

    for i in 0L .. int64 (Random.below 2 stream 0L) do
        bytes[Random.below bytes.Length stream (10L + i)] <- byte (32 + Random.below 95 stream (20L + i))

    bytes

let tests =
    testList
        "Tokenizers"
        [
            testCase "marks are added only when asked for, and nothing is cut or padded" (fun () ->
                withFile small (fun path ->
                    use tokenizer = HuggingFaceTokenizer.Open path
                    Expect.equal (tokenizer.Encode("abcab c", false)) [| 3; 4; 3; 5; 4 |] "plain"
                    Expect.equal (tokenizer.Encode("ab", true)) [| 0; 3; 6 |] "with marks"
                    Expect.equal (tokenizer.Encode("", true)) [| 0; 6 |] "nothing with marks"
                    Expect.equal (tokenizer.Encode("", false)) [||] "nothing"
                    Expect.equal tokenizer.VocabularySize 7 "added tokens count"

                    Expect.equal
                        (Option.ofNullable tokenizer.BeginId, Option.ofNullable tokenizer.EndId)
                        (Some 0, Some 6)
                        "marks"

                    Expect.equal (tokenizer.Decode [| 0; 3; 5; 4; 6 |]) "ab c" "text"
                    Expect.equal (tokenizer.Decode [||]) "" "no ids"
                    Expect.stringContains (refusal (fun () -> tokenizer.Decode [| 3; 7 |] |> ignore)) "no token 7" "a hole"
                    Expect.stringContains (refusal (fun () -> tokenizer.Decode [| -1 |] |> ignore)) "no token -1" "negative"))

            testCase "damaged parts are refused before the native library sees them" (fun () ->
                refusedWith "" "tokenizer.json"
                refusedWith "[1]" "no JSON object"
                refusedWith "{}" "model.vocab is missing"

                refusedWith
                    (small.Replace("\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"ByteLovel\""))
                    "ByteLovel"

                refusedWith
                    (small.Replace("\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"tipe\":\"ByteLevel\""))
                    "(none)"

                refusedWith (small.Replace("\"c\":4", "\"c\":-4")) "has no id"
                refusedWith (small.Replace("\"decoder\":{", "\"decoder\":{\"x\":1e999,")) "too large"

                for normalizer, reason in
                    [
                        """{"type":"Prepend","prepend":""}""", "prepends the empty text"
                        """{"type":"Sequence","normalizers":[{"type":"Replace","pattern":{"Regex":"a*"},"content":"b"}]}""",
                        "matches the empty text"
                        """{"type":"Replace","pattern":{"String":""},"content":"b"}""", "matches the empty text"
                    ] do
                    refusedWith (small.Replace("\"normalizer\":null", "\"normalizer\":" + normalizer)) reason

                let erased =
                    small
                        .Replace("\"content\":\"</s>\"", "\"content\":\"\\u0007\"")
                        .Replace("\"normalized\":false", "\"normalized\":true")

                refusedWith
                    (erased.Replace(
                        "\"normalizer\":null",
                        "\"normalizer\":{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}"
                    ))
                    "may leave nothing"

                refusedWith (small.Replace("\"ids\":[6]", "\"ids\":[8]")) "adds the id 8"
                refusedWith (small.Replace("{\"id\":\"</s>\",\"type_id\":0}", "{\"id\":\"</t>\",\"type_id\":0}")) "</t>"
                refusedWith (small.Replace("\"merges\":[[\"a\",\"b\"]]", "\"merges\":[[\"a\",\"z\"]]")) "tokenizers library"

                Expect.stringContains
                    (refusal (fun () -> HuggingFaceTokenizer.Open("/nowhere/tokenizer.json").Dispose()))
                    "does not exist"
                    "absent")

            testPropertyWithConfig
                { FsCheckConfig.defaultConfig with maxTest = 300 }
                "a damaged file is read or refused, nothing else"
                (fun (seed: int) ->
                    inFolder (fun folder ->
                        let path = Path.Combine(folder, "damaged.json")
                        File.WriteAllBytes(path, scribble seed (Encoding.UTF8.GetBytes small))

                        try
                            use tokenizer = HuggingFaceTokenizer.Open path
                            tokenizer.Encode("ab cab", true) |> ignore
                        with :? InputException as refusal ->
                            Expect.stringContains refusal.Message "damaged" "the refusal names the file"))

            testCase "a real Llama tokenizer gives the ids it was trained with" (fun () ->
                use tokenizer = HuggingFaceTokenizer.Open(Material.shared "data/stories260K")
                use reference = JsonDocument.Parse(File.ReadAllText(Material.shared "data/stories260K/reference.json"))

                for item in reference.RootElement.GetProperty("greedy").EnumerateArray() do
                    let ids = [| for id in item.GetProperty("prompt_ids").EnumerateArray() -> id.GetInt32() |]
                    let prompt = string (item.GetProperty("prompt").GetString())
                    Expect.equal (tokenizer.Encode(prompt, true)) ids prompt
                    Expect.equal (tokenizer.Encode(prompt, false)) ids[1..] "without <s>"
                    Expect.equal (tokenizer.Decode ids) prompt "back to text"

                Expect.equal tokenizer.VocabularySize 512 "vocabulary"
                Expect.equal (Option.ofNullable tokenizer.BeginId, Option.ofNullable tokenizer.EndId) (Some 1, Some 2) "marks")

            testCase "GPT-2's tokenizer gives the ids of llama.cpp's strings" (fun () ->
                use tokenizer = HuggingFaceTokenizer.Open(Material.shared "data/gpt2_tokenizer")
                let strings = File.ReadAllText(Material.shared "data/gpt2_tokenizer/vectors.inp").Split "\n__ggml_vocab_test__\n"
                let lines = File.ReadAllLines(Material.shared "data/gpt2_tokenizer/vectors.out")
                Expect.equal tokenizer.VocabularySize 50257 "vocabulary"
                Expect.equal (Option.ofNullable tokenizer.BeginId, Option.ofNullable tokenizer.EndId) (None, Some 50256) "marks"
                let pairs = Array.zip (Array.truncate lines.Length strings) lines
                Expect.isGreaterThan pairs.Length 40 "number of strings"

                for text, line in pairs do
                    let ids = line.Split(' ', StringSplitOptions.RemoveEmptyEntries) |> Array.map int
                    Expect.equal (tokenizer.Encode(text, false)) ids text
                    Expect.equal (tokenizer.Decode ids) text "back to text")

            testCase "GPT-NeoX's tokenizer" (fun () ->
                use tokenizer = HuggingFaceTokenizer.Open(Material.shared "data/neox20b/20B_tokenizer.json")
                Expect.equal tokenizer.VocabularySize 50277 "vocabulary"
                Expect.equal (Option.ofNullable tokenizer.EndId) (Some 0) "end"
                let text = "A man in a red  shirt,\n\n    riding a bicycle: 1234 é"
                let ids = tokenizer.Encode(text, false)
                Expect.equal (tokenizer.Encode(text, true)) ids "it has no marks"
                Expect.equal (tokenizer.Decode ids) text "back to text")
        ]

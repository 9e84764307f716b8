module Hybrid.Tests.TokenizerFilesTests

open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport

/// A byte-level tokenizer of six tokens, `<pad>` among them where asked for.
let private small (pad: bool) =
    let padded = if pad then ""","<pad>":6""" else ""

    $$$"""{"version":"1.0","truncation":null,"padding":null,
"added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"post_processor":null,
"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
"ignore_merges":false,"vocab":{"<s>":0,"a":1,"b":2,"ab":3,"c":4,"Ġ":5{{{padded}}} },"merges":[["a","b"]]}}"""

let private root (path: string) =
    use document = JsonDocument.Parse(File.ReadAllBytes path)
    document.RootElement.Clone()

/// Extends a tokenizer and checks the ids of every added token, and that texts have the ids they had.
let private extends (source: string) (vocabulary: Vocabulary) (marks: string list) (texts: string list) =
    inFolder (fun folder ->
        let notes = TokenizerFiles.Write(source, vocabulary, 64, folder)
        Expect.isEmpty notes "nothing to say"
        use before = HuggingFaceTokenizer.Open source
        use after = HuggingFaceTokenizer.Open folder
        Expect.equal after.VocabularySize vocabulary.Rows "as many ids as rows"

        for i, mark in List.indexed marks do
            Expect.equal (after.Encode(mark, false)) [| vocabulary.Doc + i |] mark

        for code in [ 0; 1; vocabulary.ImageCodes - 1 ] do
            Expect.equal (after.Encode($"<image_code_{code}>", false)) [| vocabulary.FirstCode + code |] $"code {code}"

        for id in before.VocabularySize .. vocabulary.TextRows - 1 do
            Expect.equal (after.Encode($"<unused_{id}>", false)) [| id |] $"unused row {id}"

        for text in texts do
            Expect.equal (after.Encode(text, false)) (before.Encode(text, false)) text
            Expect.equal (after.Decode(after.Encode(text, false))) (before.Decode(before.Encode(text, false))) text

        let around = after.Encode(marks[0] + texts[0] + marks[1], false)

        Expect.equal
            around
            (Array.concat [ [| vocabulary.Doc |]; before.Encode(texts[0], false); [| vocabulary.EndDoc |] ])
            "a text between marks"

        // What is extended already stays as it is.
        inFolder (fun second ->
            let extended = Path.Combine(folder, "tokenizer.json")
            Expect.isEmpty (TokenizerFiles.Write(extended, vocabulary, 64, second)) "nothing to say again"

            for file in Directory.GetFiles folder do
                let again = Path.Combine(second, Path.GetFileName file |> nonNull)
                Expect.equal (File.ReadAllText again) (File.ReadAllText file) again)

        Expect.equal (after.Decode around) (before.Decode(before.Encode(texts[0], false))) "marks are left out of the text"
        let config = root (Path.Combine(folder, "tokenizer_config.json"))
        Expect.equal ((config.GetProperty "pad_token").GetString()) marks[6] "pad_token"
        let special = root (Path.Combine(folder, "special_tokens_map.json"))
        Expect.equal ((special.GetProperty "pad_token").GetString()) marks[6] "pad_token")

let private real (path: string) (rows: int) =
    testCase $"{path} extended behind {rows} rows" (fun () ->
        let source = Material.shared path

        extends
            source
            { TextRows = rows; ImageCodes = 300 }
            Vocabulary.marks
            [ "Once upon a time"; "  two  spaces\n\tand ünïcödé 你好 🙂"; "x = {'a': 1}  # <b>bold</b>"; "" ])

let private withFile (text: string) (test: string -> unit) =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "tokenizer.json")
        File.WriteAllText(path, text)
        test path)

let tests =
    testList
        "TokenizerFiles"
        [
            testCase "marks, codes and unused rows get tokens with their ids" (fun () ->
                withFile (small false) (fun path ->
                    for rows in [ 6; 7; 20 ] do
                        extends path { TextRows = rows; ImageCodes = 5 } Vocabulary.marks [ "abc ab"; "ca" ]))

            testCase "a mark that is a token of the text already gets another name" (fun () ->
                withFile (small true) (fun path ->
                    let marks = List.truncate 6 Vocabulary.marks @ [ "<pad_18>" ]
                    extends path { TextRows = 12; ImageCodes = 3 } marks [ "ab" ]))

            testCase "a tokenizer with more ids than text rows is left out, and a note says so" (fun () ->
                withFile (small false) (fun path ->
                    inFolder (fun folder ->
                        let notes = TokenizerFiles.Write(path, { TextRows = 5; ImageCodes = 3 }, 64, folder)
                        Expect.stringContains (String.concat "" notes) "beyond the 5 text rows" "the note"
                        Expect.isEmpty (Directory.GetFiles folder) "no files")))

            testCase "a vocabulary with holes is left out, and a note says so" (fun () ->
                let holes = (small false).Replace("\"Ġ\":5", "\"Ġ\":9")

                withFile holes (fun path ->
                    inFolder (fun folder ->
                        let notes = TokenizerFiles.Write(path, { TextRows = 12; ImageCodes = 3 }, 64, folder)
                        Expect.stringContains (String.concat "" notes) "holes" "the note"
                        Expect.isEmpty (Directory.GetFiles folder) "no files")))

            testCase "a text model's tokenizer is copied byte by byte, with what stands beside it" (fun () ->
                withFile (small false) (fun path ->
                    let beside = Path.Combine(Path.GetDirectoryName path |> nonNull, "tokenizer_config.json")

                    File.WriteAllText(
                        beside,
                        """{"tokenizer_class":"Some","bos_token":"<s>","added_tokens_decoder":{"0":{}}}"""
                    )

                    inFolder (fun folder ->
                        Expect.isEmpty (TokenizerFiles.Write(path, { TextRows = 6; ImageCodes = 0 }, 64, folder)) "no notes"

                        Expect.equal
                            (File.ReadAllBytes(Path.Combine(folder, "tokenizer.json")))
                            (File.ReadAllBytes path)
                            "bytes"

                        let config = root (Path.Combine(folder, "tokenizer_config.json"))
                        Expect.equal ((config.GetProperty "tokenizer_class").GetString()) "Some" "kept"
                        let special = root (Path.Combine(folder, "special_tokens_map.json"))
                        Expect.equal ((special.GetProperty "bos_token").GetString()) "<s>" "from the configuration")))

            real "data/neox20b/20B_tokenizer.json" 50432
            real "data/gpt2_tokenizer/tokenizer.json" 50304
            real "data/stories260K/tokenizer.json" 512
        ]

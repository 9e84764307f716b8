/// The ids of GPT-2's, GPT-NeoX's and a small Llama's tokenizer against plain loops, over generated texts and ids.
module Hybrid.Tests.TokenizerReferenceTests

open System
open System.Globalization
open System.Text
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Generate

/// What texts are put together from.
let private fragments =
    [
        "Once upon a time"
        "the"
        "The"
        "unbelievableness"
        "it's"
        "we'll've'd"
        "'S"
        "''t"
        "1234567890"
        "3.14e-10"
        "x²½Ⅷ"
        "!?.,;:"
        "#include <stdio.h>"
        "—“”…"
        " "
        "  "
        "   \n  \t "
        "\n"
        "\r\n"
        "\n\n\n"
        "\t"
        "\u00A0"
        "\u2003\u3000"
        "\u0085\u2028"
        "\000"
        "\007\027\127"
        "é"
        "각"
        yield! List.map fst TokenizerReference.composed
        "ﬁ"
        "日本語のテキスト"
        "中文"
        "Ελληνικά"
        "Русский"
        "العربية"
        "हिन्दी"
        "ไทย"
        "🙂"
        "👩‍👩‍👧"
        "🇩🇪"
        "𝒳𝓎"
        "\U0010FFFF"
        "\uE000"
        "\uFEFF"
        "\uFFFD"
        "\u200D\u200B"
        "▁"
        "▁▁the"
        "Ġ"
        "<0x41>"
        "<|endoftext|>"
        "<|endoftext"
        "<|padding|>"
        "<s>"
        "</s>"
        "<unk>"
    ]

/// A character of any kind, but none that is composed with others, and none that is new in Unicode: versions differ in its kind.
let rec private anyRune (c: Chooser) : Rune =
    let rune = Rune(c.Of [ c.Int(0, 0x2FF); c.Int(0x370, 0x5FF); c.Int(0x3041, 0x9FA5); c.Int(0x1F300, 0x1F5FF) ])

    match Rune.GetUnicodeCategory rune with
    | UnicodeCategory.NonSpacingMark
    | UnicodeCategory.OtherNotAssigned -> anyRune c
    | _ when List.contains rune.Value [ 0x374; 0x37E; 0x387 ] -> anyRune c
    | _ -> rune

let private text (c: Chooser) : string =
    let piece () =
        match c.Int(0, 9) with
        | 0 -> String(' ', c.Int(1, 40))
        | 1 -> String(char (c.Int(32, 126)), c.Int(1, 6))
        | 2 -> (anyRune c).ToString()
        | _ -> c.Of fragments

    let joined = [ for _ in 0 .. c.Int(0, 12) -> piece () ] |> String.concat (c.Of [ ""; " "; "" ])
    joined

let private against (name: string) (file: string) : Test =
    testList
        name
        [
            // The files are large: one of each for all texts.
            testCase "ids of generated texts, and text of generated ids" (fun () ->
                let path = Material.shared file
                let reference = TokenizerReference.load path
                use tokenizer = HuggingFaceTokenizer.Open path

                for seed in 1L .. 1500L do
                    let given = text (Chooser seed)
                    let ids = tokenizer.Encode(given, false)
                    Expect.equal ids (TokenizerReference.encode reference given) $"ids of text {seed}: {given}"

                for seed in 1L .. 500L do
                    let c = Chooser seed
                    let ids = Array.init (c.Int(1, 12)) (fun _ -> c.Int(0, c.Of [ 300; tokenizer.VocabularySize - 1 ]))

                    for special in [ false; true ] do
                        Expect.equal
                            (tokenizer.Decode(ids, special))
                            (TokenizerReference.decode reference special ids)
                            $"text of ids {seed}: %A{ids}")
        ]

let tests =
    testList
        "TokenizerReference"
        [
            against "GPT-2" "data/gpt2_tokenizer/tokenizer.json"
            against "GPT-NeoX" "data/neox20b/20B_tokenizer.json"
            against "Llama" "data/stories260K/tokenizer.json"
        ]

/// Tasks of `hybrid probe`: their forms, how texts become tokens, and what is said of several models.
module Hybrid.Tests.ProbeTests

open System
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open TorchSharp

let private contexts (item: ProbeItem) = [ for struct (context, _) in item.Choices -> context ]

let private continuations (item: ProbeItem) = [ for struct (_, continuation) in item.Choices -> continuation ]

let private facts =
    """{"sub_label": "Oslo", "obj_label": "Norway"}
{"sub_label": "Rome", "obj_label": "Italy"}

{"sub_label": "Oslo", "obj_label": "Minnesota"}
{"sub_label": "Paris", "obj_label": "France"}"""

let private forms =
    testList
        "forms"
        [
            testCase "facts are asked with the first sentence that ends with its object" (fun () ->
                use folder = new Folder()
                let path = folder.Write("P1.jsonl", facts)

                let patterns =
                    [ "[Y] has [X]."; "In [Y], [X] is."; "The city [X] lies in [Y] ."; "[X] is in [Y]" ]
                    |> List.map (fun p -> $"{{\"pattern\": \"{p}\"}}\n")

                folder.Write("P1.patterns.jsonl", String.Join("", patterns)) |> ignore
                let task = ProbeTask.Read path
                Expect.equal task.Items.Count 4 "questions"
                Expect.equal (contexts task.Items[1] |> List.distinct) [ "The city Rome lies in" ] "the sentence"
                Expect.equal (continuations task.Items[1]) [ "Norway"; "Italy"; "Minnesota"; "France" ] "every object"
                Expect.equal task.Items[1].Gold 1 "the right one"
                Expect.equal (continuations task.Items[0]) [ "Norway"; "Italy"; "France" ] "but for other right ones"
                Expect.equal task.Items[2].Gold 1 "of the other right one")

            testCase "sentences stand in the line, in relations.jsonl, or where ParaRel has them" (fun () ->
                use folder = new Folder()
                let own = facts.Replace("}", ", \"template\": \"[X]: [Y]\"}")
                Expect.equal (contexts (ProbeTask.Read(folder.Write("a.jsonl", own))).Items[3]).Head "Paris:" "in the line"

                folder.Write(
                    "relations.jsonl",
                    """{"relation": "P2", "template": "[X] was [Y]"}
{"relation": "P3", "template": "[X] becomes [Y] ."}"""
                )
                |> ignore

                Expect.equal (contexts (ProbeTask.Read(folder.Write("P3.jsonl", facts))).Items[3]).Head "Paris becomes" "LAMA"
                Directory.CreateDirectory(folder.At "trex") |> ignore
                Directory.CreateDirectory(folder.At "pattern_data/graphs_json") |> ignore
                folder.Write("pattern_data/graphs_json/P4.jsonl", """{"pattern": "[X], in [Y].", "lemma": "in"}""") |> ignore

                Expect.equal
                    (contexts (ProbeTask.Read(folder.Write("trex/P4.jsonl", facts))).Items[3]).Head
                    "Paris, in"
                    "ParaRel")

            testCase "facts that cannot be asked say why" (fun () ->
                use folder = new Folder()
                let path = folder.Write("P9.jsonl", facts)

                fails [ "P9.jsonl"; "without a sentence"; "template"; "P9.patterns.jsonl" ] (fun () ->
                    ProbeTask.Read path |> ignore)

                folder.Write("P9.patterns.jsonl", """{"pattern": "[Y] has [X]."}""") |> ignore
                fails [ "P9.patterns.jsonl"; "ends with [Y]" ] (fun () -> ProbeTask.Read path |> ignore)
                let bad = folder.Write("b.jsonl", """{"sub_label": "a", "obj_label": "b", "template": "[Y] is [X]"}""")
                fails [ "b.jsonl, line 1"; "template" ] (fun () -> ProbeTask.Read bad |> ignore)
                let one = folder.Write("c.jsonl", """{"sub_label": "a", "obj_label": "b", "template": "[X] is [Y]"}""")
                fails [ "c.jsonl, line 1"; "no other object" ] (fun () -> ProbeTask.Read one |> ignore)
                let number = folder.Write("d.jsonl", """{"sub_label": 3, "obj_label": "b"}""")
                fails [ "d.jsonl, line 1"; "sub_label must be a text" ] (fun () -> ProbeTask.Read number |> ignore))

            property2 "examples are other questions with their answers" (2, 12) (0, 14) (fun seed n shots ->
                use folder = new Folder()
                let line i = $"{{\"query\": \"q{i} \", \"choices\": [\"a{i}\", \"b{i}\"], \"gold\": {i % 2}}}"
                let path = folder.Write("t.jsonl", String.Join("\n", List.init n line))
                let solved i = if i % 2 = 0 then $"q{i} a{i}" else $"q{i} b{i}"
                let count = shots % n

                let follow = ProbeTask.Read(path, Nullable count, Nullable(), Nullable())
                let drawn = ProbeTask.Read(path, Nullable count, Nullable 1, Nullable seed)
                Expect.equal drawn.Items.Count 1 "a limit"

                for i in 0 .. n - 1 do
                    let before = String.Concat(List.init count (fun k -> solved ((i + 1 + k) % n) + "\n\n"))
                    Expect.equal (contexts follow.Items[i] |> List.distinct) [ $"{before}q{i} " ] "the ones that follow"

                let blocks = (contexts drawn.Items[0]).Head.Split "\n\n" |> List.ofArray
                Expect.equal blocks.Length (count + 1) "so many"
                Expect.equal (List.distinct blocks) blocks "each once"
                Expect.isTrue (List.forall (fun b -> List.contains b (List.init n solved)) blocks[.. count - 1]) "of the others"
                Expect.isFalse (List.contains (solved 0) blocks) "not its own answer")

            testCase "lists of pairs come after five" (fun () ->
                use folder = new Folder()
                let pair i = $"{{\"input\": \"i{i}\", \"output\": \"o{i}\"}}"
                let path = folder.Write("l.json", "[" + String.Join(",", List.init 9 pair) + "]")
                let text = (contexts (ProbeTask.Read path).Items[7]).Head

                Expect.equal
                    text
                    "Q: i8\nA: o8\n\nQ: i0\nA: o0\n\nQ: i1\nA: o1\n\nQ: i2\nA: o2\n\nQ: i3\nA: o3\n\nQ: i7\nA:"
                    "the text"

                let none = ProbeTask.Read(path, Nullable 0, Nullable(), Nullable())
                Expect.equal (contexts none.Items[7]).Head "Q: i7\nA:" "no examples")
        ]

let private material () = Material.shared "data/stories260K"

let private tokens =
    testList
        "tokens"
        [
            testCase "spaces at the context's end belong to the continuation" (fun () ->
                use file = ModelFiles.Open(material ())
                use codec = PromptCodec.Beside file

                let encode positions context continuation =
                    ProbeTokens(codec, -1, positions).Encode("here", struct (context, continuation))

                let plain = encode 512 "The cat sat" "down."
                Expect.equal plain.Context (codec.Encode "The cat sat") "the context alone"
                Expect.equal (Array.append plain.Context plain.Continuation) (codec.Encode "The cat sat down.") "the whole"
                Expect.equal (encode 512 "The cat sat " "down.") plain "one space is the space between"
                let two = encode 512 "The cat sat  " "down."
                Expect.equal two.Context plain.Context "its spaces are not the context's"
                Expect.equal (Array.append two.Context two.Continuation) (codec.Encode "The cat sat  down.") "they are kept"
                Expect.equal (encode 512 "" "Once").Context (codec.Encode "") "nothing but what begins a text")

            testCase "what does not fit is cut from the beginning, and the last token needs no position" (fun () ->
                use file = ModelFiles.Open(material ())
                use codec = PromptCodec.Beside file
                let context, continuation = "The cat sat on the mat in the sun", "and slept."
                let encode positions = ProbeTokens(codec, -1, positions).Encode("here", struct (context, continuation))
                let whole = encode 512
                let all = Array.append whole.Context whole.Continuation

                for positions in whole.Continuation.Length .. all.Length do
                    let cut = encode positions
                    Expect.equal cut.Continuation whole.Continuation "the continuation is whole"
                    let kept = min all.Length (positions + 1)
                    Expect.equal (Array.append cut.Context cut.Continuation) all[all.Length - kept ..] "the last ones"

                fails [ "here"; "more than the model's" ] (fun () -> encode (whole.Continuation.Length - 1) |> ignore))

            testCase "a text's windows hold each token once, with all the context that fits for the last" (fun () ->
                use file = ModelFiles.Open(material ())
                use codec = PromptCodec.Beside file
                let text = String.replicate 9 "Once upon a time there was a cat. "
                let ids = codec.EncodePlain text

                for positions in [ 2; 7; 16; ids.Length - 1; ids.Length; ids.Length + 5 ] do
                    let windows = ProbeTokens(codec, -1, positions).Windows("here", text) |> Array.ofSeq
                    Expect.equal (windows |> Array.collect _.Continuation) ids "each token once"

                    for window in windows do
                        Expect.isLessThanOrEqual (window.Context.Length + window.Continuation.Length) (positions + 1) "it fits"

                    Expect.equal windows[0].Context (codec.Encode "") "the first begins a text"

                    if windows.Length > 1 then
                        let last = Array.last windows
                        let all = Array.append last.Context last.Continuation
                        Expect.equal all ids[ids.Length - all.Length ..] "the last is the end of the text"
                        Expect.equal all.Length (positions + 1) "and as long as fits")

            case "the loss of a text is that of one long sequence where it fits" (fun () ->
                use folder = new Folder()
                use file = ModelFiles.Open(material ())
                use codec = PromptCodec.Beside file
                use model = file.Open(Layout(Frozen = true))
                let text = "Once upon a time there was a little cat who sat in the sun."
                let path = folder.Write("t.txt", text)
                let found = ProbeText.Of(model, codec, -1, path, Nullable(), CancellationToken.None, Action<_, _>(fun _ _ -> ()))
                let ids = codec.Encode text
                let logits = (model.Logits(Host.int64s [ 1L; int64 ids.Length ] (Array.map int64 ids))).log_softmax(-1L)

                let expected =
                    Seq.init (ids.Length - 1) (fun t -> float (logits[0L, int64 t, int64 ids[t + 1]].item<float32>())) |> Seq.sum

                near 1e-4 1e-3 "nats a byte" (-expected / float text.Length) found.LossPerByte
                Expect.equal (found.Tokens, found.Bytes) (int64 (ids.Length - 1), int64 text.Length) "tokens and bytes")
        ]

let private commands =
    testList
        "command"
        [
            testCase "several models in order, texts and completions" (fun () ->
                use folder = new Folder()
                let model = material ()

                let task =
                    folder.Write(
                        "t.jsonl",
                        """{"query": "The cat", "choices": ["sat down.", "xyzzy qq."], "gold": 0}
{"context": "Once upon a", "continuation": "time"}"""
                    )

                let text = folder.Write("t.txt", "Once upon a time there was a cat.")

                let found =
                    result
                        [
                            yield! [ "probe"; "--model"; model; "--against"; model; model; "--tasks"; task; "--text"; text ]
                            yield! [ "--complete"; "Once upon a"; "--max-tokens"; "4" ]
                        ]

                let own = (found.GetProperty "tasks").GetProperty "t"
                Expect.equal ((own.GetProperty "n").GetInt32()) 2 "questions"
                let difference = own.GetProperty "difference"
                Expect.equal ((difference.GetProperty "mcnemar_p").GetDouble()) 1.0 "the same model"
                Expect.equal ((difference.GetProperty "loss_per_token").GetDouble()) 0.0 "the same loss"
                Expect.equal ((own.GetProperty "series").GetArrayLength()) 3 "every model"
                Expect.equal ((own.GetProperty "against").GetProperty("items").GetArrayLength()) 2 "the first one's items"
                let text = (found.GetProperty "texts").GetProperty "t.txt"
                Expect.equal ((text.GetProperty "bytes").GetInt32()) 33 "bytes"
                let completion = (found.GetProperty "completions")[0]

                let texts =
                    [ for c in (completion.GetProperty "continuations").EnumerateArray() -> (c.GetProperty "text").GetString() ]

                Expect.equal texts.Length 3 "every model"
                Expect.stringStarts texts.Head " time" "what comes next"
                Expect.equal (List.distinct texts) [ texts.Head ] "the same for all")

            testCase "what is missing or twice there is said" (fun () ->
                use folder = new Folder()
                let task = folder.Write("t.jsonl", """{"context": "a", "continuation": "b"}""")

                for arguments, sentence in
                    [
                        [ "--tasks"; task; task ], "--tasks: two of the files are named t"
                        [ "--text"; folder.At "no.txt" ], "the text is not there"
                        [ "--tasks"; folder.At "no.jsonl" ], "the task is not there"
                    ] do
                    let code, output, errors = program ([ "probe"; "--model"; folder.At "m" ] @ arguments)
                    Expect.isTrue (code = 1 || code = 2) $"exit code {code}"
                    Expect.equal output "" "nothing on stdout"
                    Expect.stringContains errors sentence "the sentence")
        ]

let tests =
    TorchLibrary.Load()
    testList "Probe" [ forms; tokens; commands ]

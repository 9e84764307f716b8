module Hybrid.Tests.SequenceTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private drawn (seed: int64) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    let form = chooser.Of [ Captioned; ImageOnly; TextOnly; CaptionDropped ]
    let caption = chooser.Ints(chooser.Int(1, 6), v.TextRows)
    let codes = chooser.Ints(chooser.Int(0, 6), v.ImageCodes)
    chooser, v, form, caption, codes

let tests =
    testList
        "Sequence"
        [
            testCase "the forms are what the paper says" (fun () ->
                let v = { TextRows = 100; ImageCodes = 10 }
                let compose form = Sequence.compose v form 11 [| 7; 8 |] [| 0; 9 |] |> Array.map int
                // <doc> 100, </doc> 101, <text> 102, </text> 103, <image> 104, </image> 105, <pad> 106, codes from 107
                Expect.equal (compose Captioned) [| 100; 102; 7; 8; 103; 104; 107; 116; 105; 101; 106 |] "captioned"
                Expect.equal (compose ImageOnly) [| 100; 104; 107; 116; 105; 101; 106; 106; 106; 106; 106 |] "image only"
                Expect.equal (compose TextOnly) [| 100; 102; 7; 8; 103; 101; 106; 106; 106; 106; 106 |] "text only"

                Expect.equal
                    (compose CaptionDropped)
                    [| 100; 102; 103; 104; 107; 116; 105; 101; 106; 106; 106 |]
                    "caption dropped"

                Expect.equal (Sequence.prompt v [| 7; 8 |]) [| 100L; 102L; 7L; 8L; 103L; 104L |] "prompt")

            testCase "the paper's longest caption has 122 tokens" (fun () ->
                let limit = Sequence.captionLimit 1152 1024
                Expect.equal limit 122 "the limit"
                let v = { TextRows = 50432; ImageCodes = 16384 }
                let compose count = Sequence.compose v Captioned 1152 (Array.create count 5) (Array.create 1024 3)
                Expect.equal (compose limit).Length 1152 "fits"
                Expect.isFalse (Array.contains (int64 v.Pad) (compose limit)) "exactly"
                refused "one more" (fun () -> compose (limit + 1) |> ignore) |> ignore)

            property1 "decompose undoes compose" (0, 9) (fun seed surplus ->
                let _, v, form, caption, codes = drawn seed
                let length = Sequence.length form caption.Length codes.Length
                let tokens = Sequence.compose v form (length + surplus) caption codes
                Expect.equal tokens.Length (length + surplus) "length"
                let pads = tokens |> Array.filter (fun id -> id = int64 v.Pad)
                Expect.equal pads.Length surplus "padding"

                let expected =
                    match form with
                    | Captioned -> form, caption, codes
                    | TextOnly -> form, caption, [||]
                    | ImageOnly
                    | CaptionDropped -> form, [||], codes

                Expect.equal (Sequence.decompose v tokens) expected "form, caption and codes")

            property "a prompt is the beginning of its sequence" (fun seed ->
                let _, v, _, caption, codes = drawn seed
                let prompt = Sequence.prompt v caption
                let whole = Sequence.compose v Captioned 20 caption codes
                Expect.equal whole[.. prompt.Length - 1] prompt "the beginning"
                let dropped = Sequence.compose v CaptionDropped 20 caption codes
                let unconditional = Sequence.prompt v [||]
                Expect.equal dropped[.. unconditional.Length - 1] unconditional "the beginning without a caption")

            property "what does not fit or is outside its range is refused" (fun seed ->
                let chooser, v, _, caption, codes = drawn seed
                let length = Sequence.length Captioned caption.Length codes.Length
                let compose length caption codes () = Sequence.compose v Captioned length caption codes |> ignore
                refused "too long" (compose (length - 1) caption codes) |> ignore
                let place = chooser.Int(0, caption.Length - 1)

                for bad in [ -1; v.TextRows; v.Rows ] do
                    let message = refused "a caption id" (compose 40 (Array.updateAt place bad caption) codes)
                    Expect.stringContains message (string bad) "the id"

                for bad in [ -1; v.ImageCodes ] do
                    let message = refused "a code" (compose 40 caption (Array.append codes [| bad |]))
                    Expect.stringContains message (string bad) "the code")

            property "decompose refuses a sequence that compose does not make" (fun seed ->
                let chooser, v, form, caption, codes = drawn seed
                let tokens = Sequence.compose v form 20 caption codes
                let marks = Sequence.marks form + caption.Length * (if form = TextOnly || form = Captioned then 1 else 0)
                let place = chooser.Int(0, marks - 1)

                // A <pad> in the middle ends the sequence too early.
                refused "a hole" (fun () -> Sequence.decompose v (Array.updateAt place (int64 v.Pad) tokens) |> ignore)
                |> ignore

                refused "nothing" (fun () -> Sequence.decompose v [||] |> ignore) |> ignore

                refused "a second start" (fun () -> Sequence.decompose v (Array.append tokens [| int64 v.Doc |]) |> ignore)
                |> ignore)

            property2 "targets are inputs one position on, with their kinds, counted" (1, 5) (14, 20) (fun seed count length ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let sequences = Array.init count (fun _ -> sequence chooser v length)
                let batch = Sequence.batch v torch.CPU sequences

                for tensor in [ batch.Inputs; batch.Targets; batch.Kinds ] do
                    Expect.equal tensor.shape [| int64 count; int64 length - 1L |] "shape"

                Expect.equal (ids batch.Inputs) (sequences |> Array.collect (fun s -> s[.. length - 2])) "inputs"
                let targets = sequences |> Array.collect (fun s -> s[1..])
                Expect.equal (ids batch.Targets) targets "targets"
                let kinds = targets |> Array.map (Vocabulary.kind v)
                Expect.equal (ids batch.Kinds) (kinds |> Array.map (fun k -> int64 (int k))) "kinds"
                let counted kind = kinds |> Array.filter ((=) kind) |> Array.length |> int64
                Expect.equal batch.Counts [| counted Kind.Text; counted Kind.Image; counted Kind.Structure |] "counts"

                let padding = targets |> Array.filter ((=) (int64 v.Pad)) |> Array.length |> int64
                Expect.equal batch.Count (int64 (count * (length - 1)) - padding) "all but the padding count")

            property1 "more padding counts nothing more" (1, 10) (fun seed surplus ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let tokens = sequence chooser v 14
                let longer = Array.append tokens (Array.create surplus (int64 v.Pad))
                let counts tokens = (Sequence.batch v torch.CPU [| tokens |]).Counts
                Expect.equal (counts longer) (counts tokens) "counts")

            testCase "batches of nothing, of mixed lengths or of unknown ids are refused" (fun () ->
                let v = { TextRows = 5; ImageCodes = 3 }
                let batch sequences () = Sequence.batch v torch.CPU sequences |> ignore
                misshapen "no sequence" (batch [||])
                misshapen "no target" (batch [| [| 1L |] |])
                misshapen "two lengths" (batch [| [| 1L; 2L |]; [| 1L; 2L; 3L |] |])
                let message = refused "an unknown id" (batch [| [| 1L; 2L |]; [| 1L; 15L |] |])
                Expect.stringContains message "sequence 1 of the batch: token 15 at position 1" "where it is")

            case "a batch leaves nothing alive once released" (fun () ->
                let v = { TextRows = 5; ImageCodes = 3 }
                let make () = Sequence.batch v torch.CPU [| [| 1L; 2L; 3L |] |] |> Sequence.release
                make ()
                let before = liveTensors ()

                for _ in 1..5 do
                    make ()

                Expect.equal (liveTensors ()) before "live tensors")
        ]

module Hybrid.Tests.LossByPlaceTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private words: Vocabulary = { TextRows = 10; ImageCodes = 8 }

let private plan grid edges : PlacePlan = { Grid = grid; CaptionEdges = edges }

/// Several documents in one sequence, as ready sequences have them.
let private packed (chooser: Chooser) (v: Vocabulary) (length: int) : int64[] =
    let document () = sequence chooser v 14 |> Array.filter (fun id -> id <> int64 v.Pad)

    let rec fill (tokens: int64[]) =
        if tokens.Length >= length then
            Array.truncate length tokens
        else
            fill (Array.append tokens (document ()))

    fill [||]

/// A batch with its logits, its padding kept or dropped, and the sequences it is of.
let private drawn (seed: int64) (count: int) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    let length = chooser.Int(14, 40)

    let sequences =
        Array.init count (fun _ -> if chooser.Bool() then packed chooser v length else sequence chooser v length)

    let rows = Sequence.batchOf (chooser.Of [ Kept; Dropped ]) v torch.CPU sequences
    let shape = [ for n in rows.Targets.shape -> int n ] @ [ v.Rows ]
    chooser, v, sequences, rows, Loss.score v rows (normals chooser 2.0 shape)

let private sums (p: PlaceSums) = Array.sum p.Full, Array.sum p.Within, p.Targets

let tests =
    testList
        "LossByPlace"
        [
            case "places of a document by hand" (fun () ->
                let tokens = Sequence.compose words Captioned 12 [| 3; 4; 5 |] [| 1; 2 |]

                let expected =
                    [|
                        Kind.Structure, 0, 0
                        Kind.Structure, 2, 0
                        Kind.Text, 0, 3
                        Kind.Text, 1, 3
                        Kind.Text, 2, 3
                        Kind.Structure, 3, 0
                        Kind.Structure, 4, 0
                        Kind.Image, 0, 3
                        Kind.Image, 1, 3
                        Kind.Structure, 5, 0
                        Kind.Structure, 1, 0
                        Kind.Ignored, 0, 0
                    |]

                Expect.equal
                    (LossByPlace.places words tokens |> Array.map (fun p -> p.Kind, p.Place, p.Caption))
                    expected
                    "places"

                let without = Sequence.compose words ImageOnly 8 [||] [| 1; 2; 3 |]
                let both = Array.append tokens without
                Expect.equal (LossByPlace.captionLengths words both) [| 3 |] "one caption"

                Expect.equal
                    (LossByPlace.places words both |> Array.skip 12 |> Array.filter (fun p -> p.Kind = Kind.Image))
                    [| for i in 0..2 -> { Kind = Kind.Image; Place = i; Caption = 0 } |]
                    "a document without a caption does not have the last one's")

            case "plain text is one caption" (fun () ->
                let tokens = [| 0L .. 4L |]

                Expect.equal
                    (LossByPlace.places (Vocabulary.plainText 6) tokens)
                    [| for i in 0..4 -> { Kind = Kind.Text; Place = i; Caption = 5 } |]
                    "places")

            case "sums of one document by hand" (fun () ->
                let tokens = Sequence.compose words Captioned 13 [| 3; 4 |] [| 1; 2; 5; 0 |]
                let rows = Sequence.batch words torch.CPU [| tokens |]
                // Target t has a loss of t, and one of t/2 within its kind.
                let full = Host.floats [ 12L ] [| for t in 1..12 -> float32 t |]
                let half = full.mul (Scalars.Of 0.5)
                let found = LossByPlace.ofValues (plan (struct (2, 2)) [| 2; 5 |]) words [| tokens |] rows full half
                Expect.equal found.Text.Full [| 2.0; 3.0 |] "the caption stands at 2 and 3"
                Expect.equal found.Image.Full [| 6.0; 7.0; 8.0; 9.0 |] "the picture stands at 6 to 9"
                Expect.equal found.Image.WithinLoss [| 3.0; 3.5; 4.0; 4.5 |] "within"
                Expect.equal found.ImageRows.Loss [| 6.5; 8.5 |] "rows"
                Expect.equal found.ImageColumns.Loss [| 7.0; 8.0 |] "columns"
                Expect.equal found.ImageRows.Leak [| 3.25; 4.25 |] "leak"
                Expect.equal found.Marks.Count [| 0L; 1L; 1L; 1L; 1L; 1L |] "marks; the first token is no target"
                Expect.equal found.Marks.Full [| 0.0; 11.0; 1.0; 4.0; 5.0; 10.0 |] "marks"
                Expect.equal found.ImageByCaption.Count [| 0L; 4L; 0L |] "a caption of 2 is in the second bucket"
                Expect.equal found.TextByCaption.Full [| 0.0; 5.0; 0.0 |] "text by caption"
                Expect.isNaN found.ImageByCaption.Loss[0] "nothing has no mean")

            property1 "places add up to the loss" (1, 5) (fun seed count ->
                let _, v, sequences, rows, scored = drawn seed count
                let found = LossByPlace.ofScored (plan (struct (0, 0)) [| 1; 3 |]) sequences rows scored
                let totals = values (Loss.evaluate Loss.total scored).Parts
                let within = values (Loss.sumsByKind scored (Loss.withinModality scored))
                let kinds = scored.Kinds.data<int64>().ToArray()
                let each = values scored.CrossEntropy

                for kind, parts in
                    [
                        Kind.Text, [ found.Text; found.TextByCaption ]
                        Kind.Image, [ found.Image; found.ImageByCaption ]
                        Kind.Structure, [ found.Marks ]
                    ] do
                    for part in parts do
                        let full, own, targets = sums part
                        // The same numbers, added in double precision.
                        let exact = Array.fold2 (fun s k x -> if k = int64 (int kind) then s + x else s) 0.0 kinds each
                        near 1e-9 1e-12 $"{kind}: the targets' losses" exact full
                        near 1e-4 1e-5 $"{kind}: the loss" totals[int kind] full
                        near 1e-4 1e-5 $"{kind}: within" within[int kind] own
                        Expect.equal targets rows.Counts[int kind] $"{kind}: targets"

                        // The leak is −log of the probability on the kind, so it is not negative.
                        Expect.isTrue (Array.forall (fun leak -> nan.Equals leak || leak > -1e-4) part.Leak) $"{kind}: the leak")

            property1 "rows and columns are places of the grid" (1, 4) (fun seed count ->
                let _, _, sequences, rows, scored = drawn seed count
                let of' grid = LossByPlace.ofScored (plan grid [||]) sequences rows scored
                let found = of' (struct (2, 3))
                Expect.equal found.Image.Full.Length 6 "as many places as the grid has"

                for row in 0..1 do
                    let part = Array.sum found.Image.Full[3 * row .. 3 * row + 2]
                    near 1e-9 1e-12 $"row {row}" part found.ImageRows.Full[row]

                for column in 0..2 do
                    let part = found.Image.Within[column] + found.Image.Within[column + 3]
                    near 1e-9 1e-12 $"column {column}" part found.ImageColumns.Within[column]

                Expect.equal (of' (struct (0, 0))).ImageRows.Count [||] "no grid, no rows")

            property1 "parts of a batch add to the whole" (2, 5) (fun seed count ->
                let chooser, v, sequences, rows, scored = drawn seed count
                let cut = chooser.Int(1, count - 1)
                let plan = plan (struct (2, 4)) [| 2 |]
                let spread x = Sequence.byRow rows x
                let full, within = spread scored.CrossEntropy, spread (Loss.withinModality scored)

                let part first number =
                    let some = sequences[first .. first + number - 1]
                    let own = Sequence.batchOf Kept v torch.CPU some
                    let columns = own.Targets.shape[1]

                    let flat (x: torch.Tensor) =
                        torch.nn.functional
                            .pad(x.narrow (0, int64 first, int64 number), [| 0L; columns - x.shape[1] |])
                            .flatten()

                    LossByPlace.ofValues plan v some own (flat full) (flat within)

                let whole = LossByPlace.ofScored plan sequences rows scored
                let sum = LossByPlace.empty plan + part 0 cut + part cut (count - cut)
                Expect.equal sum.Image.Count whole.Image.Count "counts"
                close 1e-9 1e-12 "image" whole.Image.Full sum.Image.Full
                close 1e-9 1e-12 "text" whole.Text.Within sum.Text.Within
                close 1e-9 1e-12 "marks" whole.Marks.Full sum.Marks.Full
                close 1e-9 1e-12 "by caption" whole.ImageByCaption.Full sum.ImageByCaption.Full)

            property1 "buckets hold about as many captions each" (1, 6) (fun seed buckets ->
                let chooser = Chooser seed
                let lengths = chooser.Ints(chooser.Int(1, 200), chooser.Int(1, 60))
                let edges = LossByPlace.quantileEdges buckets lengths
                Expect.isLessThan edges.Length buckets "no more than asked for"
                Expect.equal edges (edges |> Array.sort |> Array.distinct) "edges grow"
                let in' low high = lengths |> Array.filter (fun n -> n >= low && n < high) |> Array.length
                let borders = [ yield 0; yield! edges; yield 1000 ]
                let most = lengths |> Array.countBy id |> Array.map snd |> Array.max

                for low, high in List.pairwise borders do
                    let held = in' low high
                    Expect.isGreaterThan held 0 "no bucket is empty"
                    // Equal lengths stay together.
                    Expect.isLessThanOrEqual held (lengths.Length / buckets + 1 + most) "no bucket is much too full")

            case "a picture larger than the grid is refused" (fun () ->
                let tokens = Sequence.compose words ImageOnly 9 [||] [| 1; 2; 3; 4; 5 |]
                let rows = Sequence.batch words torch.CPU [| tokens |]
                let zeros = torch.zeros (8L)

                let sentence =
                    refused "five codes" (fun () ->
                        LossByPlace.ofValues (plan (struct (2, 2)) [||]) words [| tokens |] rows zeros zeros |> ignore)

                Expect.stringContains sentence "more than 4 codes" "the sentence"

                for grid, edges in [ struct (2, 0), [||]; struct (-1, 2), [||]; struct (2, 3), [| 3; 3 |] ] do
                    Expect.throwsT<System.ArgumentException>
                        (fun () -> LossByPlace.ofValues (plan grid edges) words [| tokens |] rows zeros zeros |> ignore)
                        "no plan"

                Expect.throwsT<System.ArgumentException>
                    (fun () ->
                        LossByPlace.empty (plan (struct (0, 0)) [| 1 |]) + LossByPlace.empty (plan (struct (0, 0)) [||])
                        |> ignore)
                    "other buckets")

            case "no tensor stays alive" (fun () ->
                let _, _, sequences, rows, scored = drawn 3L 3
                let before = liveTensors ()
                LossByPlace.ofScored (plan (struct (0, 0)) [||]) sequences rows scored |> ignore
                CodeUse.predicted scored |> ignore
                Expect.equal (liveTensors ()) before "live tensors")
        ]

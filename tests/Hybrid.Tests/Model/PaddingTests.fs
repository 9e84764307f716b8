module Hybrid.Tests.PaddingTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// Sequences of one length as they may come: of any form, with nothing that counts, with padding in the middle.
let private drawn (chooser: Chooser) (v: Vocabulary) (count: int) (length: int) : int64[][] =
    let pad = int64 v.Pad

    Array.init count (fun _ ->
        let sequence = sequence chooser v length

        match chooser.Int(0, 9) with
        | 0 -> Array.init length (fun t -> if t = 0 then sequence[0] else pad)
        | 1 -> Array.create length pad
        | 2
        | 3 -> Array.updateAt (chooser.Int(1, length - 1)) pad sequence
        | 4 -> Array.init length (fun _ -> int64 (chooser.Int(0, v.Rows - 1)))
        | _ -> sequence)

let private model (chooser: Chooser) (v: Vocabulary) (length: int) : ModelConfig =
    let config = config chooser v.Rows

    { config with
        // Dynamic scaling turns by the length, padding included.
        Positions = if config.Position = LearnedPosition then length else chooser.Of [ 8; length; 64 ]
        RotaryWidth = if config.HeadWidth > 2 then max 4 config.RotaryWidth else config.RotaryWidth
        RotaryScaling =
            if config.HeadWidth > 2 then
                chooser.Of [ NoScaling; LinearScaling 2.0; DynamicScaling 2.0 ]
            else
                NoScaling
    }

/// A value for each target as a script may have it.
let private focal: Objective =
    Loss.perTarget "focal" (fun scored -> scored.CrossEntropy.neg().exp().mul scored.CrossEntropy)

let private objective (chooser: Chooser) : Objective =
    chooser.Of
        [
            Loss.total
            Loss.weighted 0.5 Loss.text + Loss.weighted 2.0 Loss.image + Loss.weighted 0.1 Loss.zLoss
            Loss.total + Loss.weighted 0.3 focal + Loss.zLoss
        ]

/// The objective, the sums by kind and the gradient of everything, over all micro-batches.
let private evaluated (config: ModelConfig) (v: Vocabulary) (store: ParameterStore) (objective: Objective) (batches: Batch[]) =
    store.Gradient.zero_ () |> ignore

    let sums =
        [|
            for batch in batches do
                let value =
                    Decoder.hiddenOf config store.Weights batch |> HeadLoss.evaluate objective config v store.Weights batch

                value.Objective.backward ()
                Array.append (values value.Objective) (values value.Parts)
        |]

    Array.reduce (Array.map2 (+)) sums, values store.Gradient

let private same (what: string) (kept: float[] * float[]) (dropped: float[] * float[]) : unit =
    close 1e-4 1e-4 $"{what}: sums" (fst kept) (fst dropped)
    closeAsVectors 1e-4 $"{what}: gradient" (snd kept) (snd dropped)

let private batches (padding: PaddingRule) (v: Vocabulary) (size: int) (sequences: int64[][]) : Batch[] =
    Sequence.microBatches padding v torch.CPU size sequences

let private counts (batches: Batch[]) : int64[] = batches |> Array.map _.Counts |> Array.reduce (Array.map2 (+))

/// What each position of a batch predicts from what, by row and column of its rows.
let private cells (batch: Batch) : Map<int * int, int64 * int64 * int64> =
    let places =
        match batch.Rows with
        | Some rows -> ids rows.Places |> Array.map (fun place -> int (place / rows.Positions), int (place % rows.Positions))
        | None ->
            [|
                for row in 0 .. int batch.Inputs.shape[0] - 1 do
                    for column in 0 .. int batch.Inputs.shape[1] - 1 -> row, column
            |]

    Array.zip places (Array.zip3 (ids batch.Inputs) (ids batch.Targets) (ids batch.Kinds)) |> Map.ofArray

let tests =
    testList
        "Padding"
        [
            property3 "dropped, losses, counts and gradients are those of kept" (1, 5) (14, 22) (1, 5) (fun seed b length micro ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = model chooser v length
                use store = store Fp32 config seed
                let objective = objective chooser
                let sequences = drawn chooser v b length
                let kept, dropped = batches Kept v micro sequences, batches Dropped v micro sequences
                Expect.equal (counts dropped) (counts kept) "counts"
                same $"{config}" (evaluated config v store objective kept) (evaluated config v store objective dropped))

            property2 "where nothing is padded, bits are those of kept" (1, 4) (2, 20) (fun seed b length ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = model chooser v length
                use store = store Fp32 config seed
                let sequences = Array.init b (fun _ -> Array.init length (fun _ -> int64 (chooser.Int(0, v.Pad - 1))))
                let batch = Sequence.batchOf Dropped v torch.CPU sequences
                let kept = Sequence.batch v torch.CPU sequences
                Expect.isNone batch.Rows "rows"
                Expect.equal (cells batch) (cells kept) "positions"

                Expect.equal
                    (bits (Decoder.hiddenOf config store.Weights batch))
                    (bits (Decoder.hidden config store.Weights kept.Inputs))
                    "hidden states"

                let evaluated = evaluated config v store Loss.total
                let (a, b), (c, d) = evaluated [| kept |], evaluated [| batch |]
                Expect.equal c a "sums"
                Expect.equal d b "gradient")

            property2
                "what is left is every position up to its row's last target that counts"
                (1, 6)
                (14, 24)
                (fun seed b length ->
                    let chooser = Chooser seed
                    let v = vocabulary chooser
                    let sequences = drawn chooser v b length
                    let batch = Sequence.batchOf Dropped v torch.CPU sequences
                    let kept = cells (Sequence.batch v torch.CPU sequences)

                    let last row =
                        Map.toList kept
                        |> List.filter (fun ((r, _), (_, _, kind)) -> r = row && kind <> int64 (int Kind.Ignored))
                        |> List.map (fun ((_, column), _) -> column)
                        |> List.fold max -1

                    let lengths = Array.init b (fun row -> last row + 1)
                    let longest = max 1 (Array.max lengths)
                    let gaps = b * longest - Array.sum lengths
                    let expected = if Array.max lengths = 0 then Array.create b 1 else lengths
                    Expect.equal (Array.map (Sequence.counted v) sequences) lengths "counted"
                    Expect.equal batch.Length (int64 length - 1L) "length"

                    match batch.Rows with
                    | Some rows ->
                        Expect.equal
                            (cells batch)
                            (kept |> Map.filter (fun (row, column) _ -> column < expected[row]))
                            "positions"

                        Expect.equal (rows.Sequences, rows.Positions) (int64 b, int64 longest) "rows"
                        Expect.isGreaterThan (32 * gaps) (b * longest) "gaps enough to pack"
                        let sources = ids rows.Sources
                        let places = ids rows.Places

                        let where place =
                            System.Array.IndexOf(places, place) |> fun n -> if n < 0 then places.LongLength else int64 n

                        Expect.equal sources (Array.init (b * longest) (fun place -> where (int64 place))) "sources"
                    | None ->
                        Expect.equal (cells batch) (kept |> Map.filter (fun (_, column) _ -> column < longest)) "positions"
                        Expect.isTrue (32 * gaps <= b * longest || Array.max lengths = 0) "few gaps")

            property3
                "large batches keep a little more, so that few shapes occur"
                (1, 40)
                (1, 200)
                (0, 30)
                (fun seed b longest more ->
                    let chooser = Chooser seed
                    let used = Array.init b (fun i -> if i = 0 then longest else chooser.Int(1, longest))
                    let positions, kept = Sequence.roundedUp (longest + more) used
                    Expect.isGreaterThanOrEqual positions longest "columns"
                    Expect.isLessThan positions (longest + 8) "no more than needed"
                    Expect.isLessThanOrEqual positions (longest + more) "the limit"
                    Array.iter2 (fun needed kept -> Expect.isTrue (kept >= needed && kept <= positions) "of a row") used kept
                    let all = Array.sum kept
                    let small = Array.sum used < 1024
                    Expect.isTrue (if small then kept = used else all % 64 = 0 || all = b * positions) "in all"
                    Expect.isLessThan (all - Array.sum used) 64 "few more"
                    Expect.isTrue (longest < 64 || positions % 8 = 0 || positions = longest + more) "multiples")

            testCase "a large batch loses what a small one does" (fun () ->
                use _ = torch.NewDisposeScope()
                let v: Vocabulary = { TextRows = 40; ImageCodes = 30 }
                let config = { ModelConfig.openLm 16 1 2 v.Rows 104 with FeedForwardWidth = 16 }
                let caption i = Array.init (1 + 7 * i % 26) (fun k -> (3 * i + k) % 40)

                let sequences =
                    Array.init 24 (fun i ->
                        Sequence.compose v Captioned 104 (caption i) (Array.init 60 (fun k -> (i + 11 * k) % 30)))

                use store = storeWith Fp32 Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config) 3L

                let parts padding =
                    let batch = Sequence.batchOf padding v torch.CPU sequences

                    let value =
                        Decoder.hiddenOf config store.Weights batch |> HeadLoss.evaluate Loss.total config v store.Weights batch

                    batch, value.Parts.data<float32>().ToArray()

                let batch, dropped = parts Dropped
                let all, kept = parts Kept
                Expect.equal batch.Counts all.Counts "targets"
                Expect.isTrue batch.Rows.IsSome "packed"
                Expect.equal (batch.Inputs.shape[0] % 64L, batch.Rows.Value.Positions % 8L) (0L, 0L) "rounded up"
                Array.iter2 (fun a b -> Expect.floatClose Accuracy.medium (float a) (float b) "losses by kind") dropped kept)

            property3 "a step sees the same sequences, the longest together" (1, 9) (14, 24) (1, 9) (fun seed b length micro ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let sequences = drawn chooser v b length
                let sizes = sequences |> Array.chunkBySize micro |> Array.map Array.length

                let inputs padding =
                    batches padding v micro sequences
                    |> Array.map (fun batch ->
                        let cells = Map.toList (cells batch)
                        let row r = cells |> List.filter (fun ((row, _), _) -> row = r) |> List.map (fun (_, (id, _, _)) -> id)
                        let rows = batch.Rows |> Option.fold (fun _ rows -> int rows.Sequences) (int batch.Inputs.shape[0])
                        List.init rows row)

                let kept, dropped = inputs Kept, inputs Dropped
                Expect.equal (dropped |> Array.map List.length) sizes "sizes of micro-batches"
                Expect.equal dropped (inputs Dropped) "the same each time"
                let given = sequences |> Array.map (fun s -> List.ofArray s[.. length - 2])
                Expect.equal (Array.ofList (List.concat kept)) given "kept: the order given"
                let order = List.concat dropped

                let wanted =
                    if micro < b then
                        sequences |> Seq.sortBy (fun s -> -(Sequence.counted v s)) |> List.ofSeq
                    else
                        List.ofArray sequences

                for found, sequence in List.zip order wanted do
                    let count = Sequence.counted v sequence
                    let whole = List.ofArray sequence[.. length - 2]
                    Expect.isTrue (found.Length >= count && found = List.truncate found.Length whole) "its sequence")

            property1 "losses by sequence and by position are those of kept" (1, 5) (fun seed b ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let config = model chooser v 20
                use store = store Fp32 config seed
                let sequences = drawn chooser v b 20

                let losses padding =
                    let batch = Sequence.batchOf padding v torch.CPU sequences

                    let scored =
                        Decoder.hiddenOf config store.Weights batch
                        |> Decoder.head config store.Weights v.Rows
                        |> Loss.score v batch

                    let places = LossByPlace.ofScored { Grid = struct (0, 0); CaptionEdges = [||] } sequences batch scored
                    values (Loss.bySequence batch scored), places.Image

                let bySequence, image = losses Kept
                let bySequence', image' = losses Dropped
                close 1e-4 1e-4 "by sequence" bySequence bySequence'
                close 1e-4 1e-4 "by place" image.Full image'.Full
                Expect.equal image'.Count image.Count "counts by place")

            property2 "packing and its gradient are a choice of rows" (1, 5) (1, 6) (fun seed b t ->
                let chooser = Chooser seed
                let lengths = Array.init b (fun _ -> chooser.Int(0, t))

                let places =
                    [|
                        for row in 0 .. b - 1 do
                            for column in 0 .. lengths[row] - 1 -> int64 (row * t + column)
                    |]

                let n = places.Length

                if n > 0 then
                    let sources = Array.create (b * t) (int64 n)
                    places |> Array.iteri (fun i place -> sources[int place] <- int64 i)

                    let rows: PackedRows =
                        {
                            Sequences = int64 b
                            Positions = int64 t
                            Places = Host.int64s [ int64 n ] places
                            Sources = Host.int64s [ int64 (b * t) ] sources
                        }

                    let through (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (direction: torch.Tensor) =
                        let x = x.detach().clone()
                        x.requires_grad <- true
                        let y = f x
                        y.mul(direction).sum().backward()
                        bits y, bits (nonNull x.grad)

                    let packed, whole = normals chooser 1.0 [ n; 3 ], normals chooser 1.0 [ b; t; 3 ]
                    let empty = torch.zeros [| int64 (b * t); 3L |]

                    Expect.equal
                        (through (Fused.unpack rows) packed whole)
                        (through (fun x -> empty.index_copy(0L, rows.Places, x).view(int64 b, int64 t, 3L)) packed whole)
                        "unpacked"

                    Expect.equal
                        (through (Fused.pack rows) whole packed)
                        (through (fun x -> x.view(-1L, 3L).index_select(0L, rows.Places)) whole packed)
                        "packed")

            case "nothing stays alive of packed batches and their steps" (fun () ->
                let v = { TextRows = 20; ImageCodes = 8 }
                let config = { ModelConfig.openLm 8 2 2 v.Rows 32 with FeedForwardWidth = 8 }
                use store = store Fp32 config 1L
                use state = new OptimizerState(store)
                let chooser = Chooser 3L
                let sequences = Array.init 6 (fun _ -> sequence chooser v 32)

                let step () =
                    use scope = torch.NewDisposeScope()
                    let batches = batches Dropped v 3 sequences
                    Expect.all batches _.Rows.IsSome "packed"

                    for batch in batches do
                        Step.accumulate store state 10L (fun weights ->
                            Decoder.hiddenOf config weights batch |> HeadLoss.evaluate Loss.total config v weights batch)
                        |> ignore

                        Sequence.release batch

                for _ in 1..3 do
                    step ()

                let before = liveTensors ()

                for _ in 1..20 do
                    step ()

                Expect.equal (liveTensors ()) before "live tensors")
        ]

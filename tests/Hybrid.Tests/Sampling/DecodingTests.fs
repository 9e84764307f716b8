/// Continuing sequences of different lengths, part by part, against the logits of each whole sequence alone.
module Hybrid.Tests.DecodingTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// A model whose heads fill vectors or not, read past several blocks of keys.
let private wide (chooser: Chooser) =
    let config = config chooser (chooser.Int(5, 30))
    let width = chooser.Of [ 2; 8; 16; 18; 32; 34; 48; 64; 70 ]

    { config with
        HeadWidth = width
        RotaryWidth = 2 * chooser.Int(1, width / 2)
        Width = chooser.Int(8, 24)
        Layers = chooser.Int(1, 2)
        Positions = 200
        Window = chooser.Of [ 0; 0; 5; 40 ]
    }

/// Reads rows of tokens in random parts, each row as many as it likes, and gives the logits of every position of every row.
let private read
    (chooser: Chooser)
    (config: ModelConfig)
    (store: ParameterStore)
    (place: Place)
    (packing: bool)
    (rows: int64[][])
    =
    use _ = torch.inference_mode ()
    use _ = torch.NewDisposeScope()
    let longest = rows |> Array.map Array.length |> Array.max
    use prepared = new Prepared(config, store.Weights, 0, config.Rows, place, packing, rows.Length)
    use attending = prepared.Start(rows.Length, 1, longest + 80)
    let found = rows |> Array.map (fun _ -> ResizeArray<float[]>())
    let mutable first = true

    while Array.exists2 (fun (found: ResizeArray<float[]>) (row: int64[]) -> found.Count < row.Length) found rows do
        let together = if first then chooser.Int(1, 70) else chooser.Of [ 1; 1; 2; chooser.Int(1, 9) ]
        first <- false

        let needed =
            Array.map2
                (fun (found: ResizeArray<float[]>) (row: int64[]) ->
                    let left = row.Length - found.Count
                    if left = 0 then 0 else min left (chooser.Int(1, together)))
                found
                rows

        let tokens =
            Array.map2
                (fun (found: ResizeArray<float[]>) (row: int64[]) ->
                    // What is not needed may be anything.
                    Array.init together (fun t -> if found.Count + t < row.Length then row[found.Count + t] else 1L))
                found
                rows

        let tokens = Host.int64s [ int64 (rows.Length * together) ] (Array.concat tokens)
        let logits = values (prepared.Read(attending, tokens, together, needed, None)) |> Array.chunkBySize config.Rows

        for row in 0 .. rows.Length - 1 do
            for t in 0 .. needed[row] - 1 do
                found[row].Add logits[row * together + t]

        attending.Grow needed

    found |> Array.map (fun row -> Array.concat row)

let tests =
    testList
        "Decoding"
        [
            property1 "rows that are read in parts of their own have the logits of the whole" (1, 4) (fun seed rows ->
                let chooser = Chooser seed
                let config = wide chooser
                use store = store Fp32 config seed
                let tokens = Array.init rows (fun _ -> chooser.Ints(chooser.Int(1, 110), config.Rows) |> Array.map int64)

                let whole (row: int64[]) =
                    values (Decoder.logits config config.Rows store.Weights (Host.int64s [ 1L; int64 row.Length ] row))

                let expected = tokens |> Array.map whole

                for place in [ HostMemory; Tensors ] do
                    for packing in [ true; false ] do
                        let found = read chooser config store place packing tokens

                        for expected, found in Array.zip expected found do
                            close 2e-4 1e-4 $"{place}, packing {packing}" expected found)

            property1 "bf16 comes as near as bf16 can" (1, 3) (fun seed rows ->
                let chooser = Chooser seed
                let config = wide chooser
                use half = store Bf16 config seed
                // The same numbers in fp32.
                use full = store Fp32 config seed
                full.Master.copy_ (half.Compute.``to`` torch.float32) |> ignore
                let tokens = Array.init rows (fun _ -> chooser.Ints(chooser.Int(1, 80), config.Rows) |> Array.map int64)

                let whole (row: int64[]) =
                    values (Decoder.logits config config.Rows full.Weights (Host.int64s [ 1L; int64 row.Length ] row))

                for place in [ HostMemory; Tensors ] do
                    let found = read chooser config half place (chooser.Bool()) tokens

                    for expected, found in Array.zip (tokens |> Array.map whole) found do
                        closeAsVectors 0.06 $"{place}" expected found)

            property "threads that share the work come to the same bits" (fun seed ->
                let chooser = Chooser seed
                let config = { wide chooser with Layers = 1; Heads = 4; KeyValueHeads = 2; HeadWidth = 32; RotaryWidth = 32 }
                let half, rows, together = chooser.Bool(), 3, 150
                use _ = torch.NewDisposeScope()
                let rotation = Rotary.span config torch.CPU torch.float32 1L 200L

                let joined =
                    (normals chooser 1.0 [ rows * together; 8 * 32 ]).``to``(if half then torch.bfloat16 else torch.float32)

                let place = Dispatcher.dataPointer joined
                let number = if half then 2n else 4n

                let attend threads =
                    use cache = new HostCache(config, half, rows, 200, rotation)
                    let out = torch.zeros ([| int64 (rows * together); 4L * 32L |], dtype = joined.dtype)

                    cache.Attend(
                        0,
                        {
                            Query = place
                            QueryStride = 8 * 32
                            Key = place + 4n * 32n * number
                            KeyStride = 8 * 32
                            Value = place + 6n * 32n * number
                            ValueStride = 8 * 32
                            Out = Dispatcher.dataPointer out
                            Together = together
                            Lengths = [| 0; 0; 0 |]
                            Needed = [| together; 0; together - 9 |]
                        },
                        threads
                    )

                    bits out

                let alone = attend 1
                Expect.equal (attend 3) alone "bits"

                Expect.isTrue
                    (alone[together * 128 .. 2 * together * 128 - 1] |> Array.forall ((=) 0L))
                    "what is not needed is 0")
        ]

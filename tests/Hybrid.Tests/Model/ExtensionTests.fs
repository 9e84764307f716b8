module Hybrid.Tests.ExtensionTests

open Expecto
open Hybrid
open Hybrid.Extension
open Hybrid.Tests.Generate
open TorchSharp

/// The old model's values by name, each a tensor of its own.
let private source (store: ParameterStore) : string -> torch.Tensor = fun name -> store.MasterOf name

let private extend (seed: int64) newRows (precision: Precision) (config: ModelConfig) (old: ParameterStore) (rows: int) =
    let grown = grow rows config

    let target =
        Parameters.allocate precision torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters grown)

    fill (Random.ofSeed seed) newRows (int64 config.Rows) (source old) target
    grown, target

let private starts (chooser: Chooser) (added: int) (width: int) =
    [
        OpenLmNormal
        MeanOfOld
        MeanAndCovariance
        if added > 0 then
            Given(normals chooser 0.5 [ added; width ])
    ]

/// Tries a check on a model and its extensions by every kind of new rows: it gets what is tried, the old model's logits, and the
/// extended model's logits over a count of rows. The stores are held to the end: a store that nothing refers to is collected while
/// torch reads it.
let private withExtensions
    (seed: int64)
    (oldRows: int)
    (added: int)
    (t: int)
    (check: string -> torch.Tensor -> (int -> torch.Tensor) -> unit)
    =
    let chooser = Chooser seed
    let config = { config chooser oldRows with Width = chooser.Int(6, 70) }
    let precision = chooser.Of [ Fp32; Bf16 ]
    use old = store precision config seed
    let b = chooser.Int(1, 3)
    let tokens = chooser.Ints(b * t, oldRows) |> Array.map int64 |> Host.int64s [ int64 b; int64 t ]
    let before = Decoder.logits config oldRows old.Weights tokens

    for newRows in starts chooser added config.Width do
        let grown, target = extend seed newRows precision config old (oldRows + added)
        use target = target
        let what = $"{b} × {t} tokens, width {config.Width}, rows {oldRows} + {added}, {precision}"
        check what before (fun rows -> Decoder.logits grown rows target.Weights tokens)

let private rowsOf (store: ParameterStore) (name: string) (first: int) =
    use table = store.MasterOf name
    values (table.narrow (0, int64 first, table.shape[0] - int64 first)) |> Array.chunkBySize (int table.shape[1])

/// Mean and covariance (n − 1) of rows.
let private moments (rows: float[][]) =
    let d, n = rows[0].Length, float rows.Length
    let mean = Array.init d (fun i -> rows |> Array.averageBy (fun r -> r[i]))

    let covariance =
        [|
            for i in 0 .. d - 1 do
                for j in 0 .. d - 1 do
                    (rows |> Array.sumBy (fun r -> (r[i] - mean[i]) * (r[j] - mean[j]))) / (n - 1.0)
        |]

    mean, covariance

let tests =
    testList
        "Extension"
        [
            property3
                "the old model's logits are the same bits before and after"
                (1, 90)
                (0, 140)
                (1, 12)
                (fun seed oldRows added t ->
                    withExtensions seed oldRows added t (fun what before after ->
                        Expect.equal (bits (after oldRows)) (bits before) what))

            property3 "old tokens' logits among the new are the same bits" (1, 90) (0, 140) (1, 12) (fun seed oldRows added t ->
                withExtensions seed oldRows added t (fun what before after ->
                    let among = (after (oldRows + added)).narrow(2, 0L, int64 oldRows)
                    Expect.equal (bits among) (bits before) what))

            property2 "everything old is copied bit for bit" (1, 20) (0, 20) (fun seed oldRows added ->
                let chooser = Chooser seed
                let config = config chooser oldRows
                use old = store Fp32 config seed

                for newRows in starts chooser added config.Width do
                    let _, target = extend (seed + 1L) newRows Fp32 config old (oldRows + added)
                    use target = target

                    for slot in old.Slots do
                        use before = old.MasterOf slot.Spec.Name
                        use after = target.MasterOf slot.Spec.Name
                        let isTable = slot.Spec.Name = "tok_embeddings.weight" || slot.Spec.Name = "output.weight"
                        let kept = if isTable then after.narrow (0, 0L, int64 oldRows) else after
                        Expect.equal (bits kept) (bits before) slot.Spec.Name)

            property2 "a twin that starts at random has the same new rows" (1, 20) (1, 20) (fun seed oldRows added ->
                let chooser = Chooser seed
                let config = config chooser oldRows
                use old = store Fp32 config (seed + 7L)
                let grown, extended = extend seed OpenLmNormal Fp32 config old (oldRows + added)
                use extended = extended

                use twin = Parameters.allocate Bf16 torch.CPU Parameters.All (fun _ -> Moves) (Decoder.parameters grown)

                Parameters.initialise (Random.ofSeed seed) twin

                let tables =
                    if config.Tied then
                        [ "tok_embeddings.weight" ]
                    else
                        [ "tok_embeddings.weight"; "output.weight" ]

                for name in tables do
                    Expect.equal (rowsOf extended name oldRows) (rowsOf twin name oldRows) name
                    Expect.notEqual (rowsOf extended name 0) (rowsOf twin name 0) "the old rows differ")

            property2 "new rows are the mean of the old ones when told so" (1, 20) (1, 20) (fun seed oldRows added ->
                let chooser = Chooser seed
                let config = config chooser oldRows
                use old = store Fp32 config seed
                let _, target = extend seed MeanOfOld Fp32 config old (oldRows + added)
                use target = target

                let tables =
                    if config.Tied then
                        [ "tok_embeddings.weight" ]
                    else
                        [ "tok_embeddings.weight"; "output.weight" ]

                for name in tables do
                    let oldRowsOf = rowsOf old name 0
                    let mean = Array.init config.Width (fun i -> oldRowsOf |> Array.averageBy (fun r -> r[i]))
                    let rows = rowsOf target name oldRows
                    Expect.equal rows.Length added "how many"

                    for row in rows do
                        close 1e-6 1e-5 name mean row)

            property1 "given rows stand in the embedding; the head starts as open_lm's" (1, 20) (fun seed added ->
                let chooser = Chooser seed
                let config = { config chooser 9 with Tied = false }
                use old = store Fp32 config seed
                let given = normals chooser 1.0 [ added; config.Width ]
                let _, target = extend seed (Given given) Fp32 config old (9 + added)
                use target = target
                let _, plain = extend seed OpenLmNormal Fp32 config old (9 + added)
                use plain = plain
                Expect.equal (Array.concat (rowsOf target "tok_embeddings.weight" 9)) (values given) "embedding"
                Expect.equal (rowsOf target "output.weight" 9) (rowsOf plain "output.weight" 9) "head")

            property1 "copied rows are the old ones' bits in both tables, the others open_lm's" (1, 20) (fun seed added ->
                let chooser = Chooser seed
                let config = { config chooser 9 with Tied = false }
                use old = store Fp32 config seed
                let numbers = Array.init added (fun _ -> chooser.Int(-1, 8))
                let _, target = extend seed (CopiesOf numbers) Fp32 config old (9 + added)
                use target = target
                let _, plain = extend seed OpenLmNormal Fp32 config old (9 + added)
                use plain = plain

                for name in [ "tok_embeddings.weight"; "output.weight" ] do
                    let before, fresh, found = rowsOf old name 0, rowsOf plain name 9, rowsOf target name 9

                    numbers
                    |> Array.iteri (fun row number ->
                        Expect.equal found[row] (if number < 0 then fresh[row] else before[number]) $"{name}, row {row}")

                Expect.throwsT<ShapeException>
                    (fun () -> extend seed (CopiesOf(Array.append numbers [| 0 |])) Fp32 config old (9 + added) |> ignore)
                    "one row too many")

            costly "new rows have the old ones' mean and covariance when told so" (fun seed ->
                let chooser = Chooser seed
                // Fewer old rows than columns in one case: the covariance is singular there.
                let oldRows = chooser.Of [ 3; 30 ]
                let config = { config chooser oldRows with Width = 5; Heads = 1; KeyValueHeads = 1; Tied = false }
                use old = store Fp32 config seed
                // Both tables alike, so that the new rows would be too if the two were not drawn apart.
                Parameters.set old "output.weight" (old.Weights "tok_embeddings.weight")
                let added = 6000
                let _, target = extend seed MeanAndCovariance Fp32 config old (oldRows + added)
                use target = target

                for name in [ "tok_embeddings.weight"; "output.weight" ] do
                    let mean, covariance = moments (rowsOf old name 0)
                    let foundMean, found = moments (rowsOf target name oldRows)
                    let spread = [| for i in 0..4 -> sqrt covariance[i * 5 + i] |]

                    for i in 0..4 do
                        // Six standard errors.
                        near (6.0 * spread[i] / sqrt (float added) + 1e-6) 0.0 $"{name}: mean" mean[i] foundMean[i]

                        for j in 0..4 do
                            let error = 6.0 * spread[i] * spread[j] * sqrt (2.0 / float added) + 1e-6
                            near error 0.0 $"{name}: covariance" covariance[i * 5 + j] found[i * 5 + j]

                let first = rowsOf target "tok_embeddings.weight" oldRows
                let second = rowsOf target "output.weight" oldRows
                Expect.notEqual first second "the two tables are drawn apart")

            case "what does not fit is refused" (fun () ->
                let config = { ModelConfig.openLm 8 1 2 9 9 with Norm = LayerNorm }
                use old = store Fp32 config 1L
                misshapen "fewer rows" (fun () -> grow 8 config |> ignore)
                Expect.equal (grow 9 config) config "as many rows"

                misshapen "too few given rows" (fun () ->
                    extend 1L (Given(torch.zeros [| 2L; 8L |])) Fp32 config old 12 |> ignore)

                misshapen "given rows of another width" (fun () ->
                    extend 1L (Given(torch.zeros [| 3L; 7L |])) Fp32 config old 12 |> ignore)

                misshapen "another model's weights" (fun () ->
                    extend 1L OpenLmNormal Fp32 { config with Width = 6 } old 12 |> ignore))
        ]

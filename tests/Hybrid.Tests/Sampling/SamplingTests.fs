/// Cached, batched, guided and looked-ahead sampling against drawing from logits of whole sequences, one at a time, without a cache.
module Hybrid.Tests.SamplingTests

open System
open Expecto
open Hybrid
open Hybrid.Draw
open Hybrid.Sampler
open Hybrid.Tests.Generate
open TorchSharp

/// Every way that there is to compute on this machine.
let private ways: (string * Means) list =
    [
        for place in [ HostMemory; Tensors ] do
            for packing in [ true; false ] do
                for workers in [ 1; 3 ] do
                    $"{place}, packing {packing}, {workers} workers",
                    {
                        Place = place
                        PackingFrom = (if packing then 0L else System.Int64.MaxValue)
                        Workers = workers
                        Memory = usualMemory
                    }
    ]

let private painter (seed: int64) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    // Sharper than at the start of training, so that what is drawn depends on what was drawn.
    let config = config chooser v.Rows
    let config = { config with ExtendedAt = chooser.Of [ []; [ v.TextRows ]; [ v.TextRows; v.FirstCode + 1 ] ] }
    let store = store Fp32 config seed
    use _ = torch.no_grad ()
    store.Master.mul_ (Scalars.Of 2.0) |> ignore
    chooser, v, config, store

/// How near a draw is to falling on its neighbour: rounding may then decide.
let private margin (sampling: Sampling) (u: float) (logits: torch.Tensor) =
    if sampling.Temperature <= 0.0 then
        let sorted = values logits |> Array.sortDescending
        if sorted.Length < 2 then 1.0 else sorted[0] - sorted[1]
    else
        // What the draw would be a little to the left and to the right, and with logits moved a little.
        let at u (logits: torch.Tensor) = Array.head (ids (draw sampling [| Math.Clamp(u, 0.0, 1.0 - 1e-12) |] logits))
        let own = at u logits
        let sorted = values logits |> Array.sortDescending

        let borderOfK =
            match sampling.TopK with
            | Some k when k < sorted.Length -> sorted[k - 1] - sorted[k]
            | _ -> 1.0

        let borderOfP =
            match sampling.TopP with
            | Some p when
                [ -1e-4; 1e-4 ]
                |> List.exists (fun d -> ids (draw { sampling with TopP = Some(p + d) } [| u |] logits) <> [| own |])
                ->
                0.0
            | _ -> 1.0

        if at (u - 1e-4) logits <> own || at (u + 1e-4) logits <> own then
            0.0
        else
            min borderOfK borderOfP

/// Tokens of one sequence from logits of the whole sequence so far, and the least margin of its draws.
let private alone
    (config: ModelConfig)
    (store: ParameterStore)
    (sampling: Sampling)
    (number: int64)
    (first: int, columns: int)
    (count: int)
    (unconditional: int64[] option)
    (prompt: int64[])
    =
    use _ = torch.inference_mode ()
    use _ = torch.NewDisposeScope()

    let last (tokens: int64[]) =
        let all = Decoder.logits config (first + columns) store.Weights (Host.int64s [ 1L; int64 tokens.Length ] tokens)
        all.select(1, int64 tokens.Length - 1L).narrow(1, int64 first, int64 columns)

    let mutable least = 1.0

    let next (drawn: int64[]) =
        let c = last (Array.append prompt drawn)

        let logits =
            match unconditional with
            | Some u ->
                let u = last (Array.append u drawn)
                u.plus (c.sub(u).mul(Scalars.Of sampling.Guidance))
            | None -> c

        let u = uniform sampling.Seed number drawn.Length
        least <- min least (margin sampling u logits)
        Array.append drawn (ids (draw sampling [| u |] logits) |> Array.map (fun column -> column + int64 first))

    let drawn = Seq.fold (fun drawn _ -> next drawn) [||] (seq { 1..count })
    drawn |> Array.map (fun id -> int id - first), least

let private anySampling (chooser: Chooser) (seed: int64) =
    {
        Temperature = chooser.Of [ 0.0; 0.7; 1.0; 1.0; 2.0 ]
        TopK = chooser.Of [ None; None; Some 1; Some 3; Some 100 ]
        TopP = chooser.Of [ None; None; Some 0.8 ]
        Guidance = 1.0
        Seed = seed
        Lookahead = 1
    }

let private same (what: string) (expected: (int[] * float)[]) (found: int[][]) =
    for i, ((expected, margin), found) in Array.indexed (Array.zip expected found) do
        // A draw on the border of two tokens is left to rounding.
        if margin > 1e-4 then
            Expect.equal found expected $"{what}: sequence {i}"

/// Logits of the last of some tokens, behind others whose keys and values stay as they were turned then, layer by layer.
let private next (config: ModelConfig) (weights: Weights) (kept: (torch.Tensor * torch.Tensor) list) (tokens_BT: torch.Tensor) =
    let start =
        match kept with
        | (keys, _) :: _ -> keys.shape[2]
        | [] -> 0L

    let rotation = Decoder.rotation config weights start tokens_BT.shape[1]

    let block (x: torch.Tensor, grown) (layer: int) =
        let prefix = $"layers.{layer}"
        let norm name = Layers.norm config.Norm config.NormEpsilon weights $"{prefix}.{name}"
        let q, k, v = Layers.queriesKeysValues config weights $"{prefix}.attention" rotation (norm "attention_norm" x)

        let k, v =
            match List.tryItem layer kept with
            | Some(keys, values) -> torch.cat ([| keys; k |], 2L), torch.cat ([| values; v |], 2L)
            | None -> k, v

        let mixed = (Layers.attendWithin (int64 config.Window) q k v).transpose(1, 2).flatten(2L)
        let after = x.plus (Layers.projection config.OutBias weights $"{prefix}.attention.out_proj" mixed)
        let read = if config.ParallelResidual then x else after
        after.plus (Layers.feedForward config weights prefix (norm "ffn_norm" read)), (k, v) :: grown

    let x, grown = List.fold block (Decoder.embed config weights tokens_BT, []) [ 0 .. config.Layers - 1 ]
    let last = Decoder.finalNorm config weights (x.narrow (1, x.shape[1] - 1L, 1L))
    (Decoder.head config weights config.Rows last).squeeze 1, List.rev grown

let tests =
    testList
        "Sampling"
        [
            property2
                "pictures of a batch of any captions are those drawn alone without a cache"
                (1, 5)
                (1, 7)
                (fun seed pictures count ->
                    let chooser, v, config, store = painter seed
                    use store = store
                    let captions = Array.init pictures (fun _ -> chooser.Ints(chooser.Int(0, 7), v.TextRows))
                    let sampling = { anySampling chooser seed with Guidance = chooser.Of [ 1.0; 1.0; 2.5; 0.0 ] }
                    let free = if sampling.Guidance = 1.0 then None else Some(Sequence.prompt v [||])

                    let expected =
                        captions
                        |> Array.mapi (fun i caption ->
                            alone
                                config
                                store
                                sampling
                                (int64 i)
                                (v.FirstCode, v.ImageCodes)
                                count
                                free
                                (Sequence.prompt v caption))

                    for name, means in ways do
                        for ahead in [ 1; chooser.Int(2, 9) ] do
                            let sampling = { sampling with Lookahead = ahead }
                            let drawn = imagesFrom 0L means ignore config v store.Weights sampling count captions
                            same $"{name}, {ahead} ahead" expected drawn.Tokens
                            Expect.isLessThanOrEqual drawn.Passes (int64 count - 1L) "passes"

                            if ahead = 1 then
                                Expect.equal drawn.Passes (int64 count - 1L) "a pass for each code but the last")

            property2
                "continuations of a batch are those drawn alone without a cache, up to the stop"
                (1, 4)
                (1, 40)
                (fun seed rows count ->
                    let chooser = Chooser seed
                    let config = config chooser (chooser.Int(3, 20))
                    use store = store Fp32 config seed
                    let ids = chooser.Int(2, config.Rows)
                    let prompts = Array.init rows (fun _ -> chooser.Ints(chooser.Int(1, 9), ids))
                    let sampling = { anySampling chooser seed with Guidance = chooser.Of [ 1.0; 1.0; 1.5 ] }
                    let free = chooser.Ints(chooser.Int(1, 3), ids)
                    let guided = if sampling.Guidance = 1.0 then None else Some(Array.map int64 free)

                    let expected =
                        prompts
                        |> Array.mapi (fun i prompt ->
                            alone config store sampling (int64 i) (0, ids) count guided (Array.map int64 prompt))

                    let stop = chooser.Of [ None; Some(chooser.Int(0, ids - 1)) ]

                    let expected =
                        match stop with
                        | Some stop -> expected |> Array.map (fun (row, margin) -> Array.takeWhile ((<>) stop) row, margin)
                        | None -> expected

                    for name, means in ways do
                        for ahead in [ 1; chooser.Int(2, 5) ] do
                            let sampling = { sampling with Lookahead = ahead }
                            let drawn = continueBy means ignore config ids store.Weights sampling count stop (Some free) prompts
                            same $"{name}, {ahead} ahead" expected drawn.Tokens)

            property "batches that memory bounds come to the same pictures" (fun seed ->
                let chooser, v, config, store = painter seed
                use store = store
                let captions = Array.init 7 (fun _ -> chooser.Ints(chooser.Int(0, 4), v.TextRows))
                let sampling = { ancestral seed with Guidance = chooser.Of [ 1.0; 2.0 ] }
                let usual = means config store.Weights usualMemory

                let draw memory =
                    (imagesFrom 0L { usual with Memory = memory } ignore config v store.Weights sampling 4 captions).Tokens

                let whole = draw usualMemory
                Expect.equal (draw 1L) whole "one at a time"
                Expect.equal (draw 100_000L) whole "a few at a time")

            property "the rotation of a span is that of its positions, one by one where it depends on the length" (fun seed ->
                let chooser = Chooser seed
                let config = config chooser 5
                let scaling = chooser.Of [ NoScaling; LinearScaling 3.0; DynamicScaling 2.0 ]
                let width = 2 * chooser.Int(2, 4)

                let config =
                    { config with
                        HeadWidth = width
                        RotaryWidth = width
                        RotaryScaling = scaling
                        Position = Rotary
                        Positions = 6
                    }

                let prompt, length = chooser.Int(1, 9), chooser.Int(9, 14)
                use _ = torch.NewDisposeScope()
                let span = Rotary.span config torch.CPU torch.float32 (int64 prompt) (int64 length)

                for position in 0 .. length - 1 do
                    let start, count = if position < prompt then 0L, int64 prompt else int64 position, 1L
                    let own = Rotary.tables config torch.CPU torch.float32 start count

                    let row (r: Rotation option) (p: int64) =
                        bits (r.Value.Sine.select (0, p)), bits (r.Value.Cosine.select (0, p))

                    Expect.equal (row span (int64 position)) (row own (int64 position - start)) $"position {position}")

            property "a continuation beyond the positions of dynamic scaling is the cached decoder's" (fun seed ->
                let chooser = Chooser seed
                let width = 2 * chooser.Int(2, 4)

                let config =
                    { config chooser 9 with
                        HeadWidth = width
                        RotaryWidth = width
                        RotaryScaling = DynamicScaling 2.0
                        Position = chooser.Of [ Rotary; InterleavedRotary ]
                        Positions = 6
                    }

                use store = store Fp32 config seed
                let prompt = chooser.Ints(chooser.Int(1, 8), 9)
                let count = 8
                use _ = torch.inference_mode ()
                use _ = torch.NewDisposeScope()
                let mutable kept = []
                let mutable tokens = Host.int64s [ 1L; int64 prompt.Length ] (Array.map int64 prompt)

                let expected =
                    [|
                        for place in 0 .. count - 1 do
                            let logits, grown = next config store.Weights kept tokens
                            let column = draw (ancestral seed) [| uniform seed 0L place |] logits
                            kept <- grown
                            tokens <- column.unsqueeze 0L
                            int (Array.head (ids column)), margin (ancestral seed) (uniform seed 0L place) logits
                    |]

                if expected |> Array.forall (fun (_, margin) -> margin > 1e-4) then
                    for name, means in ways do
                        let drawn = continueBy means ignore config 9 store.Weights (ancestral seed) count None None [| prompt |]
                        Expect.equal drawn.Tokens[0] (Array.map fst expected) name)

            case "more positions than were learned are refused" (fun () ->
                let config = { config (Chooser 1L) 9 with Position = LearnedPosition; Positions = 8 }
                use store = store Fp32 config 1L
                let complete count = complete config 9 store.Weights greedy count None [| 1; 2; 3 |]
                Expect.hasLength (complete 6) 6 "the last token is drawn but not read"
                Expect.stringContains (refused "one more" (fun () -> complete 7 |> ignore)) "at most 6" "what to do")

            case "work that is told to stop stops, and leaves nothing alive" (fun () ->
                let _, v, config, store = painter 6L
                use store = store

                for _, means in ways do
                    let before = liveTensors ()
                    let mutable told = 0L

                    let report (drawn: int64) =
                        if drawn > 6L then
                            raise (OperationCanceledException())

                    Expect.throwsT<OperationCanceledException>
                        (fun () ->
                            imagesFrom 0L means report config v store.Weights (ancestral 1L) 20 (Array.create 5 [| 1 |])
                            |> ignore)
                        "stopped"

                    Expect.equal (liveTensors ()) before "live tensors")

            case "live tensors do not grow while a long sequence is drawn" (fun () ->
                let _, v, config, store = painter 8L
                use store = store

                for place in [ HostMemory; Tensors ] do
                    let means = { Place = place; PackingFrom = 0L; Workers = 1; Memory = usualMemory }
                    let counts = ResizeArray<int64>()
                    let report _ = counts.Add(liveTensors ())
                    let config = { config with Positions = 1200; Position = Rotary }

                    imagesFrom
                        0L
                        means
                        report
                        config
                        v
                        store.Weights
                        { ancestral 1L with Guidance = 2.0 }
                        1000
                        [| [| 1 |]; [| 1; 2 |] |]
                    |> ignore

                    let growth = counts[counts.Count - 1] - counts[10]
                    // The device's way keeps each position's codes until the end, one tensor each.
                    let kept = if place = Tensors then int64 counts.Count - 11L else 0L
                    Expect.equal growth kept $"{place}")
        ]

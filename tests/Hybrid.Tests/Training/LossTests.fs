module Hybrid.Tests.LossTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private drawn (seed: int64) (b: int) =
    let chooser = Chooser seed
    let v = vocabulary chooser
    let batch = batch chooser v b (chooser.Int(14, 18))
    let shape = [ b; int batch.Targets.shape[1]; v.Rows ]
    chooser, v, batch, (normals chooser 2.0 shape)

/// −log p of each target by the formula, in double precision, with its kind; nothing for ignored ones.
let private naive (v: Vocabulary) (batch: Batch) (logits: float[]) : (float * Kind) option[] =
    let rows = Array.chunkBySize v.Rows logits

    ids batch.Targets
    |> Array.mapi (fun i target ->
        match Vocabulary.kind v target with
        | Kind.Ignored -> None
        | kind -> Some(Reference.logSumExp rows[i] - rows[i][int target], kind))

let private sumOf kind values =
    values
    |> Array.sumBy (fun value ->
        match value with
        | Some(loss, k) when k = kind -> loss
        | _ -> 0.0)

let private objective (o: Objective) (scored: Scored) = values (Loss.evaluate o scored).Objective |> Array.head

let tests =
    testList
        "Loss"
        [
            property1 "each target's cross-entropy is −log softmax" (1, 4) (fun seed b ->
                let _, v, batch, logits = drawn seed b
                let scored = Loss.score v batch logits
                let expected = naive v batch (values logits) |> Array.map (Option.map fst >> Option.defaultValue 0.0)
                close 1e-5 1e-5 "per target" expected (values scored.CrossEntropy))

            property1 "text + image + structure = total" (1, 4) (fun seed b ->
                let _, v, batch, logits = drawn seed b
                let scored = Loss.score v batch logits
                let value = Loss.evaluate Loss.total scored
                let expected = naive v batch (values logits)
                let parts = [| for kind in [ Kind.Text; Kind.Image; Kind.Structure ] -> sumOf kind expected |]
                Expect.equal value.Parts.shape [| 3L |] "the parts' shape"
                Expect.equal value.Objective.shape [||] "the objective is a scalar"
                Expect.isFalse value.Parts.requires_grad "parts are detached"
                close 1e-4 1e-5 "parts" parts (values value.Parts)
                near 1e-4 1e-5 "total" (Array.sum parts) (values value.Objective |> Array.head)

                near
                    1e-4
                    1e-6
                    "the total is the sum of its parts"
                    (Array.sum (values value.Parts))
                    (values value.Objective |> Array.head)

                for part, i in [ Loss.text, 0; Loss.image, 1; Loss.structure, 2 ] do
                    near 1e-4 1e-5 "one part alone" parts[i] (objective part scored))

            property1 "parts add over the sequences of a batch" (2, 4) (fun seed b ->
                let _, v, batch, logits = drawn seed b
                let whole = (Loss.evaluate Loss.total (Loss.score v batch logits)).Parts

                let pieces =
                    [|
                        for i in 0 .. b - 1 do
                            let one (x: torch.Tensor) = x.narrow (0, int64 i, 1L)

                            let piece =
                                { batch with Inputs = one batch.Inputs; Targets = one batch.Targets; Kinds = one batch.Kinds }

                            values (Loss.evaluate Loss.total (Loss.score v piece (one logits))).Parts
                    |]

                close 1e-4 1e-5 "sums" (Array.init 3 (fun k -> pieces |> Array.sumBy (fun p -> p[k]))) (values whole))

            property1 "ignored targets contribute nothing, to no value and no gradient" (1, 3) (fun seed b ->
                let chooser, v, batch, logits = drawn seed b
                let ignored = batch.Kinds.eq (Scalars.Of(int64 (int Kind.Ignored)))

                let noise =
                    (normals chooser 50.0 [ b; int logits.shape[1]; v.Rows ]).mul(ignored.unsqueeze(-1).``to`` torch.float32)

                let everything (logits: torch.Tensor) =
                    let logits = logits.detach().clone()
                    logits.requires_grad <- true
                    let scored = Loss.score v batch logits
                    let value = Loss.evaluate (Loss.total + Loss.weighted 0.1 Loss.zLoss) scored
                    value.Objective.backward ()

                    match logits.grad with
                    | null -> failtest "no gradient"
                    | gradient ->
                        let kept = gradient.mul (ignored.unsqueeze(-1).``to`` torch.float32)
                        Expect.all (values kept) ((=) 0.0) "no gradient at ignored targets"

                        [|
                            values value.Objective
                            values value.Parts
                            values (Loss.withinModality scored)
                            values (Loss.bySequence batch scored)
                        |]
                        |> Array.concat

                Expect.equal (everything (logits.plus noise)) (everything logits) "other logits at ignored targets")

            property1
                "within its modality a target is no less likely; the difference is −log of the mass on its kind"
                (1, 3)
                (fun seed b ->
                    let _, v, batch, logits = drawn seed b
                    let scored = Loss.score v batch logits
                    let full = values scored.CrossEntropy
                    let within = values (Loss.withinModality scored)
                    let rows = values logits |> Array.chunkBySize v.Rows

                    ids batch.Targets
                    |> Array.iteri (fun i target ->
                        match Vocabulary.kind v target with
                        | Kind.Ignored -> Expect.equal within[i] 0.0 "ignored"
                        | kind ->
                            let own = [| 0 .. v.Rows - 1 |] |> Array.filter (fun id -> Vocabulary.kind v (int64 id) = kind)
                            let mass = Array.sumBy (fun id -> (Reference.softmax rows[i])[id]) own
                            Expect.isLessThanOrEqual within[i] (full[i] + 1e-5) "no less likely"
                            near 2e-5 1e-5 "the difference" (-Math.Log mass) (full[i] - within[i])))

            property1 "a plain text table is scored within its modality too" (1, 3) (fun seed b ->
                let chooser = Chooser seed
                let v = Vocabulary.plainText (chooser.Int(2, 9))
                let sequences = Array.init b (fun _ -> chooser.Ints(6, v.Rows) |> Array.map int64)
                let batch = Sequence.batch v torch.CPU sequences
                let scored = Loss.score v batch (normals chooser 1.0 [ b; 5; v.Rows ])
                close 1e-5 1e-5 "all of it is text" (values scored.CrossEntropy) (values (Loss.withinModality scored))
                Expect.equal batch.Counts [| int64 (b * 5); 0L; 0L |] "counts")

            property1 "sums by sequence and by position add up to the parts" (1, 4) (fun seed b ->
                let _, v, batch, logits = drawn seed b
                let scored = Loss.score v batch logits
                let parts = values (Loss.evaluate Loss.total scored).Parts
                let bySequence = Loss.bySequence batch scored
                Expect.equal bySequence.shape [| int64 b; 3L |] "shape by sequence"
                let rows = values bySequence |> Array.chunkBySize 3
                close 1e-4 1e-5 "by sequence" parts (Array.init 3 (fun k -> rows |> Array.sumBy (fun r -> r[k])))
                let expected = naive v batch (values logits)
                let t = int batch.Targets.shape[1]

                expected
                |> Array.chunkBySize t
                |> Array.iteri (fun i own ->
                    let kinds = [| for kind in [ Kind.Text; Kind.Image; Kind.Structure ] -> sumOf kind own |]
                    close 1e-4 1e-5 $"sequence {i}" kinds rows[i]))

            property1 "z-loss is the square of log Σ exp over targets that count" (1, 3) (fun seed b ->
                let _, v, batch, logits = drawn seed b
                let rows = values logits |> Array.chunkBySize v.Rows

                let expected =
                    naive v batch (values logits)
                    |> Array.mapi (fun i value -> if value.IsSome then Reference.logSumExp rows[i] ** 2.0 else 0.0)
                    |> Array.sum

                near 1e-3 1e-5 "z" expected (objective Loss.zLoss (Loss.score v batch logits)))

            property1 "objectives are linear in their parts" (1, 3) (fun seed b ->
                let chooser, v, batch, logits = drawn seed b
                let scored = Loss.score v batch logits
                let a, c = chooser.Float(0.0, 2.0), chooser.Float(0.0, 2.0)
                let mixed = Loss.weighted a Loss.text + Loss.weighted c (Loss.image + Loss.zLoss)
                let parts = objective Loss.text scored, objective Loss.image scored, objective Loss.zLoss scored
                let text, image, z = parts
                near 1e-3 1e-5 "weighted" (a * text + c * (image + z)) (objective mixed scored)
                let twice = Loss.weighted c (Loss.weighted a Loss.text)
                near 1e-3 1e-5 "weighted twice" (a * c * text) (objective twice scored)
                Expect.equal (objective { Terms = [] } scored) 0.0 "no terms")

            property "the gradient of an objective is its finite differences" (fun seed ->
                let chooser, v, batch, logits = drawn seed 1
                let a, c, s, z = chooser.Float(0.1, 2.0), chooser.Float(0.1, 2.0), chooser.Float(0.1, 2.0), 0.05

                let weighted =
                    Loss.weighted a Loss.text
                    + Loss.weighted c Loss.image
                    + Loss.weighted s Loss.structure
                    + Loss.weighted z Loss.zLoss

                let value (logits: float[]) =
                    let rows = Array.chunkBySize v.Rows logits

                    naive v batch logits
                    |> Array.mapi (fun i value ->
                        match value with
                        | None -> 0.0
                        | Some(loss, kind) ->
                            let weight =
                                match kind with
                                | Kind.Text -> a
                                | Kind.Image -> c
                                | _ -> s

                            weight * loss + z * Reference.logSumExp rows[i] ** 2.0)
                    |> Array.sum

                logits.requires_grad <- true
                (Loss.evaluate weighted (Loss.score v batch logits)).Objective.backward()
                let point = values logits

                match logits.grad with
                | null -> failtest "no gradient"
                | gradient ->
                    let gradient = values gradient

                    for _ in 1..40 do
                        let place = chooser.Int(0, point.Length - 1)
                        let moved by = value (Array.updateAt place (point[place] + by) point)
                        let slope = (moved 1e-5 - moved -1e-5) / 2e-5
                        near 1e-4 1e-4 $"place {place}" slope gradient[place])

            property1 "logits in bf16 are scored in fp32" (1, 3) (fun seed b ->
                let _, v, batch, logits = drawn seed b
                let narrow = logits.``to`` torch.bfloat16
                let scored = Loss.score v batch narrow
                Expect.equal scored.Logits.dtype torch.float32 "type"
                let expected = naive v batch (values narrow) |> Array.map (Option.map fst >> Option.defaultValue 0.0)
                close 1e-5 1e-5 "per target" expected (values scored.CrossEntropy))

            case "logits of another shape are refused" (fun () ->
                let _, v, batch, logits = drawn 1L 2
                misshapen "a row too few" (fun () -> Loss.score v batch (logits.narrow (2, 0L, int64 v.Rows - 1L)) |> ignore)
                misshapen "a position too few" (fun () -> Loss.score v batch (logits.narrow (1, 0L, 3L)) |> ignore)
                misshapen "two axes" (fun () -> Loss.score v batch (logits.select (0, 0L)) |> ignore))

            testCase "perplexity is exp of nats" (fun () ->
                near 1e-12 1e-12 "of ln 7" 7.0 (Loss.perplexity (Math.Log 7.0))
                Expect.equal (Loss.perplexity 0.0) 1.0 "of 0")
        ]

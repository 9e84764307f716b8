module Hybrid.Tests.FusedTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// A value and the gradient that a random direction sends back through a function.
let private through (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (direction: torch.Tensor) : float[] * float[] =
    let x = x.detach().clone()
    x.requires_grad <- true
    let y = f x
    y.mul(direction).sum().backward()

    match x.grad with
    | null -> failtest "no gradient"
    | gradient -> values y, values gradient

let private same (tolerance: float) (what: string) (a: float[] * float[]) (b: float[] * float[]) : unit =
    close tolerance tolerance $"{what}: value" (fst a) (fst b)
    close tolerance tolerance $"{what}: gradient" (snd a) (snd b)

/// Attention by its formula, with autograd's own gradient.
let private plain (config: ModelConfig) (window: int) (rotation: Rotation option) (joined: torch.Tensor) : torch.Tensor =
    let b, t = joined.shape[0], joined.shape[1]
    let h, kv, c = int64 config.Heads, int64 config.KeyValueHeads, int64 config.HeadWidth
    let x = joined.view (b, t, h + 2L * kv, c)
    let turn (x: torch.Tensor) = rotation |> Option.fold (fun x r -> Layers.rotate config r x) x
    let heads (x: torch.Tensor) = x.transpose(1, 2).repeat_interleave(h / x.shape[2], 1L)
    let q = turn (x.narrow (2, 0L, h)) |> heads
    let k = turn (x.narrow (2, h, kv)) |> heads
    let v = x.narrow (2, h + kv, kv) |> heads
    let scores = q.matmul(k.transpose (2, 3)).div(Scalars.Of(sqrt (float c)))

    let seen (i: int64) (j: int64) = j <= i && (window = 0 || j > i - int64 window)

    let mask =
        Array.init (int (t * t)) (fun k -> if seen (int64 k / t) (int64 k % t) then 0.0f else -infinityf)
        |> Host.floats [ t; t ]

    let mask = mask.``to`` scores.dtype
    scores.plus(mask).softmax(-1L).matmul(v).transpose(1, 2).reshape(b, t, h * c)

/// A plan for one head of width 2, rotated by what is given.
let private oneHead (turn: torch.Tensor -> torch.Tensor) : FusedAttention.AttentionPlan =
    let table () = torch.ones (3L, 1L, 2L)

    {
        Heads = 1L
        KeyValueHeads = 1L
        HeadWidth = 2L
        Turn = fun _ -> turn
        Rotation = Some { Cosine = table (); Sine = table () }
        Window = 0L
        ScoresAtOnce = 1L <<< 20
        ScoresKept = 1L <<< 20
        Rows = None
        Interleaved = false
    }

/// Tensors that a function leaves alive on a thread of its own, where no scope is open, as torch's thread for a GPU is.
let private leftOutsideScopes (work: unit -> unit) : int64 =
    let mutable left = 0L

    let thread =
        System.Threading.Thread(fun () ->
            let before = liveTensors ()
            work ()
            left <- liveTensors () - before)

    thread.Start()
    thread.Join()
    left

let private released =
    testCase "a backward function releases what it is given where no scope is open" (fun () ->
        let pass () =
            use x = torch.ones (1L, 3L, 6L, requires_grad = true)

            use sum =
                use _ = torch.NewDisposeScope()
                (Fused.swiGluGate x).sum().MoveToOuterDisposeScope()

            sum.backward ()

            match x.grad with
            | null -> failtest "no gradient"
            | gradient -> gradient.Dispose()

        let left passes =
            leftOutsideScopes (fun () ->
                for _ in 1..passes do
                    pass ())

        // What the last call returned is released by the next one.
        Expect.equal (left 20) (left 2) "live tensors do not grow with the passes")

let private failing =
    testCase "a failure in a backward function is raised where backward was called" (fun () ->
        use _ = torch.NewDisposeScope()
        let mutable calls = 0

        let turn (x: torch.Tensor) =
            calls <- calls + 1
            if calls > 1 then raise (InputException "the second turn fails.") else x.alias ()

        let specs = [ { Name = "joined"; Shape = [ 1L; 3L; 6L ]; Init = Ones } ]
        use store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) specs
        use state = new OptimizerState(store)

        let loss (weights: Weights) : LossValue =
            let sum = (FusedAttention.causalAttention (oneHead turn) (weights "joined")).sum()
            { Objective = sum; Parts = sum.detach().expand(3L) }

        let step () = Step.accumulate store state 1L loss |> ignore
        let error = Expect.throwsC step id
        Expect.isTrue (error :? InputException) $"{error}"
        Expect.stringContains error.Message "the second turn fails" "its message"

        // The next one goes through.
        calls <- -1
        step ())

let tests =
    testList
        "Fused"
        [
            released
            failing

            property2 "the gate and its gradient" (1, 6) (1, 20) (fun seed n f ->
                let chooser = Chooser seed
                let x = (normals chooser 2.0 [ 2; n; 2 * f ]).``to`` torch.float64
                let direction = (normals chooser 1.0 [ 2; n; f ]).``to`` torch.float64
                let half (x: torch.Tensor) i = x.narrow (-1, int64 (i * f), int64 f)
                let plain (x: torch.Tensor) = torch.nn.functional.silu(half x 0).mul(half x 1)
                same 1e-12 "gate" (through plain x direction) (through Fused.swiGluGate x direction))

            property2
                "attention and its gradient, in one piece or several, kept or computed again"
                (1, 3)
                (1, 20)
                (fun seed b t ->
                    let chooser = Chooser seed
                    let kv = chooser.Int(1, 3)
                    let groups, c = chooser.Int(1, 3), 2 * chooser.Int(1, 4)
                    let position = chooser.Of [ Rotary; InterleavedRotary; NoPosition ]

                    let config =
                        { ModelConfig.openLm (kv * groups * c) 1 (kv * groups) 8 t with
                            KeyValueHeads = kv
                            HeadWidth = c
                            Position = position
                            RotaryWidth = 2 * chooser.Int(1, c / 2)
                        }

                    let rotation = Layers.rotation config torch.CPU torch.float64 0L (int64 t)
                    let window = chooser.Of [ 0; 1; 3; 50 ]
                    let width = (kv * groups + 2 * kv) * c
                    let x = (normals chooser 1.0 [ b; t; width ]).``to`` torch.float64
                    let direction = (normals chooser 1.0 [ b; t; kv * groups * c ]).``to`` torch.float64
                    let expected = through (plain config window rotation) x direction

                    for atOnce, kept in [ 1L <<< 20, 1L <<< 20; 200L, 1L <<< 20; 200L, 0L; 1L <<< 20, 0L ] do
                        let plan: FusedAttention.AttentionPlan =
                            {
                                Heads = int64 config.Heads
                                KeyValueHeads = int64 kv
                                HeadWidth = int64 c
                                Turn = Layers.rotate config
                                Rotation = rotation
                                Window = int64 window
                                ScoresAtOnce = atOnce
                                ScoresKept = kept
                                Rows = None
                                Interleaved = (config.Position = InterleavedRotary)
                            }

                        // torch.baddbmm takes 1 / √C in single precision, and sums over several pieces are kept in it.
                        let tolerance = 1e-5

                        same
                            tolerance
                            $"{position}, {atOnce} at once"
                            expected
                            (through (FusedAttention.causalAttention plan) x direction))

            property2 "head and loss together are the head and then the loss" (1, 6) (2, 40) (fun seed b t ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let batch = batch chooser v b (14 + t)
                let width = chooser.Int(1, 12)
                let tied = chooser.Bool()

                let config =
                    { ModelConfig.openLm width 1 1 (v.Rows + chooser.Int(0, 3)) (14 + t) with
                        Tied = tied
                        Position = NoPosition
                    }

                let objective =
                    [
                        Loss.text, chooser.Float(0.0, 2.0)
                        Loss.image, 1.0
                        Loss.structure, chooser.Float(0.0, 1.0)
                        Loss.zLoss, chooser.Of [ 0.0; 1e-2 ]
                    ]
                    |> List.filter (fun (_, weight) -> weight > 0.0)
                    |> List.map (fun (part, weight) -> Loss.weighted weight part)
                    |> List.reduce (+)

                let table = normals chooser 1.0 [ config.Rows; width ]
                let hidden = normals chooser 1.0 [ b; int batch.Targets.shape[1]; width ]

                let run (evaluate: Weights -> torch.Tensor -> LossValue) =
                    let table, hidden = table.detach().clone(), hidden.detach().clone()
                    table.requires_grad <- true
                    hidden.requires_grad <- true
                    let value = evaluate (fun _ -> table) hidden
                    value.Objective.mul(Scalars.Of 0.25).backward()

                    [| values value.Objective; values value.Parts; values (nonNull table.grad); values (nonNull hidden.grad) |]

                let apart =
                    run (fun weights hidden ->
                        Decoder.head config weights v.Rows hidden |> Loss.score v batch |> Loss.evaluate objective)

                let together
                    (evaluate: Objective -> ModelConfig -> Vocabulary -> Weights -> Batch -> torch.Tensor -> LossValue)
                    =
                    run (fun weights hidden -> evaluate objective config v weights batch hidden)
                    |> Array.iter2 (close 2e-5 2e-5 "objective, parts, gradients") apart

                together HeadLoss.evaluate
                // Logits with more columns than the table has rows, or with some of its rows that have no id.
                together (HeadLoss.evaluateWithin 64L)
                together (HeadLoss.evaluateWithin 2L))
        ]

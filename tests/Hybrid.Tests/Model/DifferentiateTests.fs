/// Derivatives against central differences in double precision, and against each other.
module Hybrid.Tests.DifferentiateTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private doubles (chooser: Chooser) (shape: int list) : torch.Tensor = (normals chooser 1.0 shape).``to`` torch.float64

/// A smooth function, composed of a few others as the chooser has it, of a matrix.
let private composed (chooser: Chooser) (shape: int list) : torch.Tensor -> torch.Tensor =
    let rows, columns = shape[0], shape[1]
    let square = (doubles chooser [ columns; columns ]).mul(Scalars.Of 0.5)
    let like = doubles chooser shape

    let pieces: (torch.Tensor -> torch.Tensor) list =
        [
            torch.tanh
            torch.sin
            fun x -> x.mul (x.sigmoid ())
            fun x -> x.square().plus(1.0).sqrt()
            fun x -> x.matmul square
            fun x -> x.mul like
            fun x -> x.softmax -1L
            fun x -> torch.nn.functional.layer_norm (x, [| int64 columns |])
            fun x -> x.plus (x.mean ([| 0L |], true))
            torch.nn.functional.silu
        ]

    let body = List.init (chooser.Int(1, 4)) (fun _ -> chooser.Of pieces) |> List.fold (>>) id

    let last: torch.Tensor -> torch.Tensor =
        match chooser.Int(0, 2) with
        | 0 -> id
        | 1 -> fun x -> x.sum 1L
        | _ -> fun x -> x.t().reshape(int64 rows * int64 columns).narrow(0L, 0L, 1L)

    body >> last

/// That function with a scalar result, curved everywhere.
let private scalarOf (chooser: Chooser) (shape: int list) : torch.Tensor -> torch.Tensor =
    let f = composed chooser shape

    fun x ->
        let y = f x
        y.square().sum().plus(y.sum().sin())

let private scaled (scale: float) (x: torch.Tensor) = x.mul (Scalars.Of scale)

/// The derivative of f(t) at 0 from its values at ± h and ± 2h, which is exact for polynomials of the fourth degree.
let private slopeAtZero (f: float -> torch.Tensor) : torch.Tensor =
    let h = 1e-4
    let across (t: float) = (f t).sub(f -t)
    (scaled 8.0 (across h)).sub(across (2.0 * h)).div(Scalars.Of(12.0 * h))

/// How f changes as x moves along v.
let private difference (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor =
    slopeAtZero (fun t -> f (x.plus (scaled t v)))

let private inner (a: torch.Tensor) (b: torch.Tensor) : float = (a.mul b).sum().item<float>()

let private agree (what: string) (expected: torch.Tensor) (actual: torch.Tensor) : unit =
    Expect.equal actual.shape expected.shape $"{what}: shape"
    close 2e-7 2e-7 what (values expected) (values actual)

let private against =
    [
        property2 "gradients are those of central differences" (1, 4) (1, 5) (fun seed rows columns ->
            let chooser = Chooser seed

            let f, x, v =
                scalarOf chooser [ rows; columns ], doubles chooser [ rows; columns ], doubles chooser [ rows; columns ]

            let value, gradient = Differentiate.valueAndGrad f x
            agree "the value" (f x) value
            Expect.equal gradient.shape x.shape "shape"
            near 2e-7 2e-7 "∇f · v" ((difference f x v).item<float>()) (inner gradient v)
            agree "gradv" (difference f x v) (Differentiate.gradv f x v)
            Expect.isFalse (gradient.requires_grad || value.requires_grad) "a plain tensor")

        property2 "jvp and vjp are those of central differences" (1, 4) (1, 5) (fun seed rows columns ->
            let chooser = Chooser seed

            let f, x, v =
                composed chooser [ rows; columns ], doubles chooser [ rows; columns ], doubles chooser [ rows; columns ]

            let value, tangent = Differentiate.fjvp f x v
            agree "the value" (f x) value
            agree "J v" (difference f x v) tangent
            let u = doubles chooser (value.shape |> Array.map int |> List.ofArray)
            near 2e-7 2e-7 "uᵀ J v both ways" (inner u tangent) (inner (Differentiate.vjp f x u) v))

        property2 "hvp is the central difference of gradients" (1, 4) (1, 5) (fun seed rows columns ->
            let chooser = Chooser seed

            let f, x, v =
                scalarOf chooser [ rows; columns ], doubles chooser [ rows; columns ], doubles chooser [ rows; columns ]

            let gradient, product = Differentiate.gradhessianv f x v
            agree "the gradient" (Differentiate.grad f x) gradient
            agree "H v" (difference (Differentiate.grad f) x v) product)
    ]

let private againstEachOther =
    [
        property2 "a jacobian's products are jvp and vjp" (1, 3) (1, 4) (fun seed rows columns ->
            let chooser = Chooser seed

            let f, x, v =
                composed chooser [ rows; columns ], doubles chooser [ rows; columns ], doubles chooser [ rows; columns ]

            let y, jacobian = Differentiate.fjacobian f x
            Expect.equal jacobian.shape (Array.append y.shape x.shape) "shape"
            let matrix = jacobian.reshape (y.numel (), x.numel ())
            agree "J v" (matrix.mv(v.reshape -1L).reshape y.shape) (Differentiate.jvp f x v)
            let u = doubles chooser (y.shape |> Array.map int |> List.ofArray)
            agree "Jᵀ u" (matrix.t().mv(u.reshape -1L).reshape x.shape) (Differentiate.vjp f x u))

        property2 "a hessian is symmetric, its product is hvp, its trace the laplacian" (1, 3) (1, 4) (fun seed rows columns ->
            let chooser = Chooser seed

            let f, x, v =
                scalarOf chooser [ rows; columns ], doubles chooser [ rows; columns ], doubles chooser [ rows; columns ]

            let gradient, hessian = Differentiate.gradhessian f x
            agree "the gradient" (Differentiate.grad f x) gradient
            Expect.equal hessian.shape (Array.append x.shape x.shape) "shape"
            let matrix = hessian.reshape (x.numel (), x.numel ())
            agree "symmetric" matrix (matrix.t ())
            agree "H v" (matrix.mv(v.reshape -1L).reshape x.shape) (Differentiate.hvp f x v)
            agree "trace" (matrix.trace ()) (Differentiate.laplacian f x))

        property2 "derivatives are linear in the function and in the direction" (1, 4) (1, 5) (fun seed rows columns ->
            let chooser = Chooser seed
            let shape = [ rows; columns ]
            let f, g, x = scalarOf chooser shape, scalarOf chooser shape, doubles chooser shape
            let a, b = chooser.Float(-2.0, 2.0), chooser.Float(-2.0, 2.0)
            let sum (p: torch.Tensor) (q: torch.Tensor) = (scaled a p).plus(scaled b q)
            let both x = sum (f x) (g x)
            agree "of functions" (sum (Differentiate.grad f x) (Differentiate.grad g x)) (Differentiate.grad both x)
            let u, v = doubles chooser shape, doubles chooser shape
            let jvp, hvp = Differentiate.jvp torch.tanh x, Differentiate.hvp f x
            agree "of directions" (sum (jvp u) (jvp v)) (jvp (sum u v))
            agree "of directions, twice" (sum (hvp u) (hvp v)) (hvp (sum u v)))

        property1 "derivatives of derivatives are those of powers" (2, 5) (fun seed power ->
            let x = torch.tensor (Chooser(seed).Float(0.5, 1.5), dtype = torch.float64)
            // xⁿ, differentiated k times: n! / (n − k)! · xⁿ⁻ᵏ.
            let f (x: torch.Tensor) = x.pow (Scalars.Of power)
            let value = x.item<float>()

            for order in 1..4 do
                let derivative = List.replicate order Differentiate.grad |> List.fold (fun f d -> d f) f
                let factor = List.fold (fun product i -> product * float (power - i)) 1.0 [ 0 .. order - 1 ]
                near 1e-9 1e-9 $"derivative {order}" (factor * value ** float (power - order)) ((derivative x).item<float>())
                agree "diff" (Differentiate.grad f x) (Differentiate.diff f x))

        case "a function's own derivative may use what another is being taken by" (fun () ->
            // d/dx (x · d/dy (x y)) = d/dx x² = 2x: no confusion of the two perturbations.
            let x = torch.tensor (3.0, dtype = torch.float64)
            let one = torch.ones_like x
            let f (x: torch.Tensor) = x.mul (Differentiate.grad (fun y -> x.mul y) one)
            agree "by hand" (torch.tensor (6.0, dtype = torch.float64)) (Differentiate.grad f x)
            let g (x: torch.Tensor) = x.mul (Differentiate.grad (fun y -> y.plus x) one)
            agree "and none" one (Differentiate.grad g x)
            let h (x: torch.Tensor) = Differentiate.jvp (fun y -> y.square().mul x) x (x.exp ())
            // 2x · x · eˣ, differentiated: (4x + 2x²) eˣ.
            agree "along a direction that moves" (torch.tensor (30.0 * exp 3.0, dtype = torch.float64)) (Differentiate.grad h x))

        case "a gradient's norm is a part of a loss" (fun () ->
            let x = doubles (Chooser 5L) [ 3; 2 ]
            let penalty (x: torch.Tensor) = (Differentiate.grad (fun x -> x.tanh().sum()) x).square().sum()
            let v = doubles (Chooser 6L) [ 3; 2 ]
            near 2e-7 2e-7 "∇ · v" ((difference penalty x v).item<float>()) (inner (Differentiate.grad penalty x) v))

        case "what a step differentiates keeps its graph" (fun () ->
            let specs: ParameterSpec list = [ { Name = "w"; Shape = [ 3L ]; Init = Uniform 1.0 } ]
            use store = storeWith Fp32 Parameters.Matrices (fun _ -> Moves) specs 3L
            use state = new OptimizerState(store)
            let x = normals (Chooser 4L) 1.0 [ 3 ]
            // ‖∇ₓ tanh(w · x)‖², of which the weights' gradient is taken.
            let penalty (weights: Weights) = (Differentiate.grad (fun x -> (weights "w").mul(x).sum().tanh()) x).square().sum()

            let loss (weights: Weights) : LossValue = { Objective = penalty weights; Parts = torch.zeros 3L }
            Step.accumulate store state 1L loss |> ignore
            let expected = Differentiate.gradOf [ "w" ] penalty store.Weights
            close 1e-6 1e-6 "gradient" (values expected["w"]) (values (store.Gradient.narrow (0L, 0L, 3L)))
            Expect.isGreaterThan (values expected["w"] |> Array.sumBy abs) 1e-3 "and it is not zero")
    ]

let private borders =
    [
        case "what does not depend on the argument has no slope" (fun () ->
            let x, constant = doubles (Chooser 1L) [ 2; 3 ], torch.tensor (2.0, dtype = torch.float64)
            let zeros = torch.zeros_like x
            agree "grad" zeros (Differentiate.grad (fun _ -> constant) x)
            agree "the value" constant (fst (Differentiate.valueAndGrad (fun _ -> constant) x))
            agree "jvp" (torch.zeros_like constant) (Differentiate.jvp (fun _ -> constant) x x)
            agree "of a linear function" zeros (Differentiate.hvp (fun x -> x.sum ()) x x)
            agree "the argument itself" x (Differentiate.jvp id zeros x)
            let weight = torch.ones (2L, dtype = torch.float64)
            weight.requires_grad <- true
            // A graph that leads elsewhere.
            agree "another's" zeros (Differentiate.grad (fun _ -> weight.sum ()) x)
            Expect.isTrue (isNull weight.grad) "nothing was added there")

        case "the door for C# gives the same" (fun () ->
            let x, v = doubles (Chooser 3L) [ 2; 3 ], doubles (Chooser 4L) [ 2; 3 ]
            let f (x: torch.Tensor) = x.tanh().square().sum()
            let func = Func<torch.Tensor, torch.Tensor>(f)
            let many = Func<torch.Tensor, torch.Tensor>(torch.tanh)
            let struct (value, gradient) = Api.Derivatives.ValueAndGrad(func, x)
            agree "value" (f x) value
            agree "with the value" (Differentiate.grad f x) gradient
            agree "Grad" gradient (Api.Derivatives.Grad(func, x))
            agree "Jvp" (Differentiate.jvp torch.tanh x v) (Api.Derivatives.Jvp(many, x, v))
            agree "Vjp" (Differentiate.vjp torch.tanh x v) (Api.Derivatives.Vjp(many, x, v))
            agree "Hvp" (Differentiate.hvp f x v) (Api.Derivatives.Hvp(func, x, v))
            agree "Jacobian" (Differentiate.jacobian torch.tanh x) (Api.Derivatives.Jacobian(many, x))
            agree "Hessian" (Differentiate.hessian f x) (Api.Derivatives.Hessian(func, x)))

        case "empty tensors have empty derivatives" (fun () ->
            let x = torch.zeros ([| 0L; 2L |], dtype = torch.float64)
            Expect.equal (Differentiate.grad (fun x -> x.sum ()) x).shape [| 0L; 2L |] "grad"
            Expect.equal (Differentiate.jacobian (fun x -> x.mul x) x).shape [| 0L; 2L; 0L; 2L |] "jacobian")

        case "what cannot be differentiated is refused in a sentence" (fun () ->
            let x = doubles (Chooser 1L) [ 2; 3 ]

            let says (part: string) (action: unit -> torch.Tensor) =
                try
                    action () |> ignore
                    failtest $"nothing was refused: {part}"
                with
                | :? ShapeException
                | :? InvalidOperationException
                | :? ArgumentException as error -> Expect.stringContains error.Message part "the sentence"

            says "the function gives a tensor of shape [2, 3]" (fun () -> Differentiate.grad torch.tanh x)

            says "the argument has element type Int64" (fun () ->
                Differentiate.grad (fun x -> x.sum ()) (torch.ones (2L, dtype = torch.int64)))

            says "the function's result has element type Int64" (fun () -> Differentiate.jvp (fun x -> x.argmax 1L) x x)
            says "as the argument is" (fun () -> Differentiate.jvp torch.tanh x (x.t ()))

            says "the tangent of the argument is Float32" (fun () ->
                Differentiate.hvp (fun x -> x.sum ()) x (x.``to`` torch.float32))

            says "the cotangent of the function's result" (fun () -> Differentiate.vjp torch.tanh x x[0])

            says "torch cannot differentiate this function" (fun () ->
                // Torch has the gradient of this one, and not that gradient's.
                let bags (table: torch.Tensor) = (Alignment.bagOfWords table [| [| 0; 1 |] |]).square().sum()
                Differentiate.hvp bags (x.``to`` torch.float32) (x.``to`` torch.float32))

            says "no parameter is named" (fun () -> (Differentiate.gradOf [] (fun w -> w "a") (fun _ -> x))["a"])
            says "given twice" (fun () -> (Differentiate.gradOf [ "a"; "a" ] (fun w -> w "a") (fun _ -> x))["a"]))

        case "each function leaves its results and nothing else" (fun () ->
            let x = doubles (Chooser 2L) [ 2; 3 ]
            let f (x: torch.Tensor) = x.tanh().square().sum()
            let one (name: string) (call: unit -> torch.Tensor) = name, (fun () -> [ call () ])
            let weights: Weights = fun _ -> x
            let g (w: Weights) = f (w "a")
            let column (map: Map<string, torch.Tensor>) = List.ofSeq map.Values

            for name, call in
                [
                    one "grad" (fun () -> Differentiate.grad f x)
                    one "jvp" (fun () -> Differentiate.jvp torch.tanh x x)
                    one "vjp" (fun () -> Differentiate.vjp torch.tanh x x)
                    one "hvp" (fun () -> Differentiate.hvp f x x)
                    one "jacobian" (fun () -> Differentiate.jacobian torch.tanh x)
                    one "hessian" (fun () -> Differentiate.hessian f x)
                    one "laplacian" (fun () -> Differentiate.laplacian f x)
                    one "gradv" (fun () -> Differentiate.gradv f x x)
                    one "nested" (fun () -> Differentiate.grad (Differentiate.laplacian f) x)
                    one "the argument" (fun () -> Differentiate.fjvp id x x |> snd)
                    "gradOf", (fun () -> column (Differentiate.gradOf [ "a" ] g weights))
                    "hvpOf", (fun () -> column (Differentiate.hvpOf [ "a" ] g weights weights))
                    one "jvpOf" (fun () -> Differentiate.jvpOf [ "a" ] g weights weights)
                ] do
                let before = liveTensors ()
                let results = call ()
                let extra = if name = "the argument" then 2L else 1L
                Expect.equal (liveTensors () - before) extra $"{name}: tensors that are new"
                results |> List.iter (fun result -> result.Dispose())

            let before = liveTensors ()

            Expect.throws (fun () -> Differentiate.grad torch.tanh x |> ignore) "refused"
            Expect.equal (liveTensors ()) before "nothing is left of what was refused")
    ]

/// The mean cross-entropy of predicting each token, in double precision.
let private lossOf (config: ModelConfig) (tokens: torch.Tensor) (weights: Weights) : torch.Tensor =
    let logits = Decoder.logits config config.Rows weights tokens
    torch.nn.functional.cross_entropy (logits.reshape (-1L, int64 config.Rows), tokens.reshape -1L)

/// A tiny decoder's weights in double precision, and tokens.
let private decoder (seed: int64) =
    let chooser = Chooser seed
    let rows = chooser.Int(4, 8)
    let config = { config chooser rows with FeedForward = chooser.Of [ SwiGlu; GeGlu; Gelu; GeluTanh ] }
    use store = store Fp32 config seed
    let names = [ for spec in Decoder.parameters config -> spec.Name ]
    let doubled = dict [ for name in names -> name, (store.Weights name).detach().``to`` torch.float64 ]
    let tokens = Host.int64s [ 2L; 5L ] (Array.init 10 (fun _ -> int64 (chooser.Int(0, rows - 1))))
    chooser, config, names, doubled, tokens

let private ofDecoders =
    [
        costly "derivatives of a decoder's loss by its weights are those of central differences" (fun seed ->
            let chooser, config, names, weights, tokens = decoder seed
            let loss = lossOf config tokens

            let direction =
                dict [ for name in names -> name, doubles chooser (weights[name].shape |> Array.map int |> List.ofArray) ]

            let moved (t: float) : Weights = fun name -> weights[name].plus(scaled t direction[name])
            let value, gradient = Differentiate.valueAndGradOf names loss (lookup weights)
            agree "the value" (loss (lookup weights)) value
            let slope = names |> List.sumBy (fun name -> inner gradient[name] direction[name])
            let expected = (slopeAtZero (moved >> loss)).item<float>()
            near 1e-6 1e-6 "the gradient along the direction" expected slope
            near 1e-6 1e-6 "jvpOf" expected ((Differentiate.jvpOf names loss (lookup weights) (lookup direction)).item<float>())
            let product = Differentiate.hvpOf names loss (lookup weights) (lookup direction)

            let flat (tensors: Map<string, torch.Tensor>) = torch.cat [| for name in names -> tensors[name].reshape -1L |]

            let expected = slopeAtZero (moved >> Differentiate.gradOf names loss >> flat)
            closeAsVectors 1e-5 "H v" (values expected) (values (flat product)))

        costly "by some weights the derivatives are those by all" (fun seed ->
            let chooser, config, names, weights, tokens = decoder seed

            let some =
                names |> List.filter (fun _ -> chooser.Bool()) |> List.append [ "tok_embeddings.weight" ] |> List.distinct

            let all = Differentiate.gradOf names (lossOf config tokens) (lookup weights)
            let part = Differentiate.gradOf some (lossOf config tokens) (lookup weights)
            Expect.equal (List.ofSeq part.Keys) (List.sort some) "the names"

            for name in some do
                agree name all[name] part[name])

        costly "the gradient that training takes is the same" (fun seed ->
            for precision, limit in [ Fp32, 1e-3; Bf16, 0.15 ] do
                let chooser = Chooser seed
                let vocabulary = vocabulary chooser
                let config = config chooser vocabulary.Rows
                use store = store precision config seed
                use state = new OptimizerState(store)

                let batch =
                    Array.init 3 (fun _ -> sequence chooser vocabulary 20)
                    |> Sequence.batchOf (chooser.Of [ Kept; Dropped ]) vocabulary torch.CPU

                let byHand (weights: Weights) =
                    Decoder.hiddenOf config weights batch |> HeadLoss.evaluate Loss.total config vocabulary weights batch

                Step.accumulate store state 1L byHand |> ignore
                let names = [ for slot in store.Slots -> slot.Spec.Name ]
                // Whatever the pass keeps of blocks for itself.
                let checkpointing = chooser.Of [ Checkpointing.None; Checkpointing.Selective; Checkpointing.Full ]
                let pass = { Decoder.plainPass with Checkpointing = checkpointing }

                let loss (weights: Weights) =
                    let value =
                        Decoder.hiddenBy pass config weights batch
                        |> HeadLoss.evaluate Loss.total config vocabulary weights batch

                    value.Objective

                let gradient = Differentiate.gradOf names loss store.Weights

                let trained (slot: Slot) = state.Gradient.narrow (0L, slot.Offset - store.FirstMoving, slot.Spec.Count)

                let whole (part: Slot -> torch.Tensor) =
                    [|
                        for slot in store.Slots do
                            yield! values (part slot)
                    |]

                closeAsVectors limit $"{precision}" (whole trained) (whole (fun slot -> gradient[slot.Spec.Name].reshape -1L)))

        case "a gradient by hand is not differentiated by torch's own backward" (fun () ->
            let chooser = Chooser 8L
            let config = { config chooser 6 with FeedForward = SwiGlu }
            use store = store Fp32 config 8L

            for checkpointing in [ Checkpointing.None; Checkpointing.Selective; Checkpointing.Full ] do
                let x = (normals chooser 1.0 [ 1; 4; config.Width ])
                x.requires_grad <- true
                let pass = { Decoder.plainPass with Checkpointing = checkpointing }
                let rotation = Decoder.rotation config store.Weights 0L 4L
                let y = (Decoder.blockBy pass config store.Weights rotation None 0 x).sum()

                try
                    torch.autograd.backward (y, create_graph = true)
                    failtest $"{checkpointing}: nothing was refused"
                with :? Runtime.InteropServices.ExternalException as error ->
                    let cause = Fused.Returned.Cause error
                    Expect.stringContains cause.Message "by hand" "the sentence")
    ]

let tests = testList "Differentiate" (against @ againstEachOther @ borders @ ofDecoders)

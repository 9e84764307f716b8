/// Derivatives of composed functions over torch's autograd, by DiffSharp's names: those that begin with f give the function's value as
/// well. A function takes a tensor, or the weights of a model (the `…Of` forms), and may itself be made of derivatives.
///
/// A result has a graph where the call stands within another derivative or within the loss of a step, or where an argument has one;
/// elsewhere it is a plain tensor. It is the only tensor that a call leaves; the caller owns it. Whatever else a function reads is
/// constant. Where the function does not depend on its argument the derivative is zero.
///
/// Errors: ShapeException for an argument or a result that is not fp16, bf16, fp32 or fp64, a result that is not a scalar where one is
/// needed, and a tangent of another shape or type; InvalidOperationException where torch has no derivative for an operator.
module Hybrid.Differentiate

open System
open System.Runtime.ExceptionServices
open System.Runtime.InteropServices
open TorchSharp

let private floating (what: string) (tensor: torch.Tensor) : unit =
    match tensor.dtype with
    | torch.ScalarType.Float16
    | torch.ScalarType.BFloat16
    | torch.ScalarType.Float32
    | torch.ScalarType.Float64 -> ()
    | other ->
        raise (ShapeException $"{what} has element type {other}; a derivative needs fp16, bf16, fp32 or fp64. Convert it first.")

let private scalar (y: torch.Tensor) : unit =
    if y.dim () <> 0L then
        raise (
            ShapeException
                $"the function gives a tensor of shape {Shape.show y.shape}; its gradient needs a scalar, such as its sum. `jacobian` takes any shape."
        )

/// Checks that v, a change of something or what is sent back to it, is of its shape and type.
let private alike (what: string) (name: string) (like: torch.Tensor) (v: torch.Tensor) : unit =
    if v.shape <> like.shape || v.dtype <> like.dtype then
        raise (
            ShapeException
                $"the {what} of {name} is {v.dtype} of shape {Shape.show v.shape}; it must be {like.dtype} of shape {Shape.show like.shape}, as {name} is."
        )

// By TorchScript: an error of TorchSharp 0.107's own `autograd.grad` ends the process.
let private script (name: string) (keep: string) : string =
    $"""
def {name}(ys: List[Tensor], vs: List[Tensor], xs: List[Tensor]) -> List[Tensor]:
    slopes: List[Optional[Tensor]] = []
    for v in vs:
        slopes.append(v)
    found = torch.grad(ys, xs, slopes, True, {keep}, True)
    gradients: List[Tensor] = []
    for i in range(len(xs)):
        gradient = found[i]
        if gradient is None:
            gradients.append(torch.zeros_like(xs[i]))
        else:
            gradients.append(gradient)
    return gradients
"""

let private compiled = lazy (torch.jit.compile (script "once" "False" + script "again" "True"))

/// What torch says of an error in a script, without its traceback.
let private reason (error: exn) : string =
    let mark = "RuntimeError: "
    let lines = error.Message.Split '\n'

    match lines |> Array.tryFind _.StartsWith(mark) with
    | Some line -> line[mark.Length ..]
    | None -> lines[0]

/// The gradients of Σ ys · vs by xs, zero where nothing depends on one.
let private pulled (keep: bool) (ys: torch.Tensor list) (vs: torch.Tensor list) (xs: torch.Tensor list) : torch.Tensor list =
    match List.zip ys vs |> List.filter (fun (y, _) -> y.requires_grad) |> List.unzip with
    | [], _ -> xs |> List.map torch.zeros_like
    | ys, vs ->
        let arguments: obj[] = [| List.toArray ys; List.toArray vs; List.toArray xs |]

        try
            compiled.Value.invoke ((if keep then "again" else "once"), arguments) :?> torch.Tensor[] |> List.ofArray
        with :? ExternalException as error ->
            match Fused.Returned.Cause error with
            | :? ExternalException ->
                raise (InvalidOperationException($"torch cannot differentiate this function: {reason error}", error))
            | cause ->
                ExceptionDispatchInfo.Throw cause
                []

/// Takes derivatives by named arguments in a scope of its own; of all tensors only the results stay. `work` gets the variables, and
/// whether derivatives are to keep their graph.
let private taking (xs: (string * torch.Tensor) list) (work: bool -> torch.Tensor list -> torch.Tensor list) : torch.Tensor list =
    for name, x in xs do
        floating name x

    let keep = torch.is_grad_enabled () && (Derivative.Awaited || xs |> List.exists (fun (_, x) -> x.requires_grad))

    use scope = torch.NewDisposeScope()
    use _ = torch.enable_grad ()
    use _ = Derivative.Take()

    // A view is a tensor of its own, as an alias is not: what else depends on x does not depend on it.
    let variable (_, x: torch.Tensor) =
        if keep && x.requires_grad then
            x.view x.shape
        else
            let free = x.detach ()
            free.requires_grad <- true
            free

    // A function may give back a tensor that it was given or holds.
    let own (result: torch.Tensor) = if keep then result.alias () else result.detach ()
    [ for result in work keep (List.map variable xs) -> (own result).MoveToOuterDisposeScope() ]

/// f of the variables.
let private valuesOf (f: torch.Tensor list -> torch.Tensor list) (variables: torch.Tensor list) : torch.Tensor list =
    let ys = f variables

    for y in ys do
        floating "the function's result" y

    ys

let private one (y: torch.Tensor) = torch.ones (y.shape, dtype = y.dtype, device = y.device)

/// ys, then Jᵀv for each of xs; `cotangents` gives v from ys.
let private pull f cotangents xs : torch.Tensor list =
    taking xs (fun keep variables ->
        let ys = valuesOf f variables
        ys @ pulled keep ys (cotangents ys) variables)

/// ys, then Jv for each of them. Jᵀu is linear in u, and the gradient of v · Jᵀu by u is Jv.
let private push f (tangents: torch.Tensor list) xs : torch.Tensor list =
    List.iter2 (fun (name, x) v -> alike "tangent" name x v) xs tangents

    taking xs (fun keep variables ->
        let ys = valuesOf f variables

        let us =
            [
                for y in ys do
                    let u = torch.zeros (y.shape, dtype = y.dtype, device = y.device)
                    u.requires_grad <- true
                    u
            ]

        ys @ pulled keep (pulled true ys us variables) tangents us)

/// y, then ∂y/∂x of shape [shape of y, shape of x]: a backward pass for each element of y.
let private jacobians f xs : torch.Tensor list =
    taking xs (fun keep variables ->
        let y = valuesOf f variables |> List.exactlyOne
        let x = List.exactlyOne variables
        let rows = torch.eye (y.numel (), dtype = y.dtype, device = y.device)

        let row (i: int64) =
            use scope = torch.NewDisposeScope()
            (pulled keep [ y ] [ rows[i].view y.shape ] [ x ]).Head.MoveToOuterDisposeScope()

        let shape = Array.append y.shape x.shape

        if y.numel () = 0L then
            [ y; torch.zeros (shape, dtype = x.dtype, device = x.device) ]
        else
            [ y; torch.stack([| for i in 0L .. y.numel () - 1L -> row i |]).reshape shape ])

// ---- functions of a tensor ----

let private ofOne (f: torch.Tensor -> torch.Tensor) (variables: torch.Tensor list) : torch.Tensor list =
    [ f (List.exactlyOne variables) ]

let private pair (results: torch.Tensor list) : torch.Tensor * torch.Tensor = results[0], results[1]

let private second (value: torch.Tensor, derivative: torch.Tensor) : torch.Tensor =
    value.Dispose()
    derivative

let private named (x: torch.Tensor) = [ "the argument", x ]

let private slope (ys: torch.Tensor list) : torch.Tensor list =
    List.iter scalar ys
    List.map one ys

/// f(x), a scalar, and ∇f(x), of the shape of x. DiffSharp: `fgrad`.
let valueAndGrad (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor * torch.Tensor =
    pull (ofOne f) slope (named x) |> pair

/// ∇f(x) of an f that gives a scalar; of the shape of x.
let grad (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor = valueAndGrad f x |> second

/// f(x) and J v, of the shape of f(x): how f changes as x moves along v, of the shape of x. DiffSharp: `fjacobianv`.
let fjvp (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor * torch.Tensor =
    push (ofOne f) [ v ] (named x) |> pair

/// J v, of the shape of f(x): how f changes as x moves along v, of the shape of x.
let jvp (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor = fjvp f x v |> second

/// f(x) and Jᵀ v, of the shape of x, for a v of the shape of f(x). DiffSharp: `fjacobianTv`.
let fvjp (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor * torch.Tensor =
    let cotangents (ys: torch.Tensor list) =
        alike "cotangent" "the function's result" ys.Head v
        [ v ]

    pull (ofOne f) cotangents (named x) |> pair

/// Jᵀ v, of the shape of x, for a v of the shape of f(x).
let vjp (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor = fvjp f x v |> second

/// f(x) and ∂f/∂x, of shape [shape of f(x), shape of x]; a backward pass for each element of f(x).
let fjacobian (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor * torch.Tensor =
    jacobians (ofOne f) (named x) |> pair

/// ∂f/∂x, of shape [shape of f(x), shape of x]; a backward pass for each element of f(x).
let jacobian (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor = fjacobian f x |> second

/// ∇f(x), and H v with H = ∂²f/∂x², both of the shape of x, of an f that gives a scalar. H is symmetric, so H v is Hᵀ v.
let gradhessianv (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor * torch.Tensor =
    alike "tangent" "the argument" x v
    fvjp (grad f) x v

/// H v with H = ∂²f/∂x², of the shape of x, of an f that gives a scalar.
let hvp (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor = gradhessianv f x v |> second

/// ∇f(x), and ∂²f/∂x² of shape [shape of x, shape of x], of an f that gives a scalar.
let gradhessian (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor * torch.Tensor = fjacobian (grad f) x

/// ∂²f/∂x², of shape [shape of x, shape of x], of an f that gives a scalar; a backward pass for each element of x.
let hessian (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor = gradhessian f x |> second

/// Σ ∂²f/∂xᵢ², a scalar: the trace of the hessian.
let laplacian (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    (hessian f x).reshape(x.numel (), x.numel ()).trace().MoveToOuterDisposeScope()

/// ∇f(x) · v, a scalar: the derivative along v of an f that gives a scalar.
let gradv (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) (v: torch.Tensor) : torch.Tensor =
    let g (x: torch.Tensor) =
        let y = f x
        scalar y
        y

    jvp g x v

/// The derivative of a function of a scalar, of the shape of its result.
let diff (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor =
    Shape.require "the argument" [] x
    use along = one x
    jvp f x along

/// DiffSharp's name of `valueAndGrad`.
let fgrad f x = valueAndGrad f x

/// DiffSharp's name of `jvp`.
let jacobianv f x v = jvp f x v

/// DiffSharp's name of `fjvp`.
let fjacobianv f x v = fjvp f x v

/// DiffSharp's name of `vjp`.
let jacobianTv f x v = vjp f x v

/// DiffSharp's name of `fvjp`.
let fjacobianTv f x v = fvjp f x v

/// DiffSharp's name of `hvp`.
let hessianv f x v = hvp f x v

// ---- functions of a model's weights ----

/// A function of weights as one of the values of some of them; what it reads under other names is constant.
let private ofWeights (names: string list) (f: Weights -> torch.Tensor) (weights: Weights) (values: torch.Tensor list) =
    let given = Map.ofList (List.zip names values)

    [ f (fun name -> given |> Map.tryFind name |> Option.defaultWith (fun () -> weights name)) ]

let private valuesBy (names: string list) (weights: Weights) : (string * torch.Tensor) list =
    match names |> List.countBy id |> List.tryFind (fun (_, count) -> count > 1) with
    | Some(name, _) -> invalidArg (nameof names) $"the parameter {name} is given twice."
    | None when names.IsEmpty -> invalidArg (nameof names) "no parameter is named that the derivative is to be by."
    | None -> [ for name in names -> name, weights name ]

let private byName (names: string list) (derivatives: torch.Tensor list) : Map<string, torch.Tensor> =
    Map.ofList (List.zip names derivatives)

/// f(weights), a scalar, and its gradient by each of the named parameters. Other parameters are constant.
/// Errors: KeyNotFoundException for a name that is no parameter; ArgumentException for a name given twice, or none.
let valueAndGradOf
    (names: string list)
    (f: Weights -> torch.Tensor)
    (weights: Weights)
    : torch.Tensor * Map<string, torch.Tensor> =
    let results = valuesBy names weights |> pull (ofWeights names f weights) slope
    results.Head, byName names results.Tail

/// The gradient of f(weights), a scalar, by each of the named parameters. Errors: as `valueAndGradOf`.
let gradOf (names: string list) (f: Weights -> torch.Tensor) (weights: Weights) : Map<string, torch.Tensor> =
    let value, gradients = valueAndGradOf names f weights
    value.Dispose()
    gradients

/// f(weights), of any shape, and how it changes as the named parameters move along `direction`. Errors: as `valueAndGradOf`.
let fjvpOf
    (names: string list)
    (f: Weights -> torch.Tensor)
    (weights: Weights)
    (direction: Weights)
    : torch.Tensor * torch.Tensor =
    valuesBy names weights |> push (ofWeights names f weights) (List.map direction names) |> pair

/// How f(weights), of any shape, changes as the named parameters move along `direction`. Errors: as `valueAndGradOf`.
let jvpOf (names: string list) (f: Weights -> torch.Tensor) (weights: Weights) (direction: Weights) : torch.Tensor =
    fjvpOf names f weights direction |> second

/// The gradient of f(weights), a scalar, by each of the named parameters, and how it changes as these move along `direction`: the
/// product with the hessian. Errors: as `valueAndGradOf`.
let gradhessianvOf
    (names: string list)
    (f: Weights -> torch.Tensor)
    (weights: Weights)
    (direction: Weights)
    : Map<string, torch.Tensor> * Map<string, torch.Tensor> =
    let xs = valuesBy names weights
    let tangents = List.map direction names
    List.iter2 (fun (name, x) v -> alike "tangent" name x v) xs tangents

    let gradients (values: torch.Tensor list) =
        let results = List.zip names values |> pull (ofWeights names f weights) slope
        results.Tail

    let gradients, products = pull gradients (fun _ -> tangents) xs |> List.splitAt names.Length
    byName names gradients, byName names products

/// The product of the hessian of f(weights), a scalar, with `direction`, over the named parameters. Errors: as `valueAndGradOf`.
let hvpOf (names: string list) (f: Weights -> torch.Tensor) (weights: Weights) (direction: Weights) : Map<string, torch.Tensor> =
    let gradients, products = gradhessianvOf names f weights direction

    for gradient in gradients.Values do
        gradient.Dispose()

    products

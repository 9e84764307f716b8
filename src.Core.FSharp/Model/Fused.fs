/// Parts of a decoder whose gradients are written by hand. Autograd would take a narrow, a transpose or a product apart into passes
/// over memory that these leave out; the results are the same up to rounding. Axes: see the legend in Shape.fs.
module Hybrid.Fused

open System
open System.Collections.Generic
open TorchSharp

type private Context = torch.autograd.AutogradContext

// Backward functions hand tensors to native code, which copies the handle after they return; the tensors themselves are released
// one call later. Native calls of one thread follow each other, so the list is per thread.
[<AbstractClass; Sealed>]
type internal Returned private () =
    [<ThreadStatic; DefaultValue>]
    static val mutable private last: torch.Tensor list | null

    [<DefaultValue>]
    static val mutable private failure: exn | null

    /// Releases what the last backward function of this thread handed over, when `backward` is over.
    static member Release() : unit =
        match Returned.last with
        | null -> ()
        | last ->
            for tensor in last do
                tensor.Dispose()

        Returned.last <- null

    static member Keep(gradients: torch.Tensor list, others: int) : List<torch.Tensor> =
        Returned.Release()
        Returned.last <- gradients
        List<torch.Tensor>(gradients @ List.replicate others Unchecked.defaultof<_>)

    /// Keeps an error for `Cause`, and gives what torch refuses at these places of the arguments: a gradient of a shape that never fits.
    static member Failing(error: exn, places: bool list) : List<torch.Tensor> =
        let misfit (here: bool) =
            if here then
                Some(torch.empty([| 0L; 0L; 0L; 0L; 0L; 0L; 0L |]).DetachFromDisposeScope())
            else
                None

        let misfits = List.map misfit places
        Returned.failure <- error
        Returned.Keep(List.choose id misfits, 0) |> ignore
        List<torch.Tensor>(misfits |> List.map (Option.defaultValue Unchecked.defaultof<_>))

    /// Carries a backward function out, in a scope of its own: the gradients of `inputs` tensors, and none of `others` arguments.
    ///
    /// For a GPU torch calls it on a thread of its own. No scope is open there that would release the gradient `outer`, which is
    /// this function's to release; and an exception would end the process. It is kept, and what torch refuses goes back, so that
    /// `backward` fails where it was called.
    static member Of(outer: torch.Tensor, inputs: int, others: int, work: unit -> torch.Tensor list) : List<torch.Tensor> =
        use _ = outer

        try
            use _ = torch.NewDisposeScope()

            // Torch turns this on in the backward pass of a graph that is itself to be differentiated.
            if torch.is_grad_enabled () then
                raise (InvalidOperationException Derivative.Once)

            Returned.Keep([ for gradient in work () -> gradient.DetachFromDisposeScope() ], others)
        with error ->
            Returned.Failing(error, List.replicate inputs true @ List.replicate others false)

    /// What to raise for an error of `backward`: the failure of one of these functions, where there was one.
    static member Cause(error: exn) : exn =
        let failure = Returned.failure
        Returned.failure <- null

        match failure with
        | null -> error
        | failure -> failure

/// Tensors are saved when `forward` has returned: they must outlive its own scope.
let internal save (ctx: Context) (tensors: torch.Tensor list) : unit =
    ctx.save_for_backward (List [ for tensor in tensors -> tensor.alias().MoveToOuterDisposeScope() ])

let private into (operator: string) (overload: string) (arguments: Dispatcher.Argument list) (out: torch.Tensor) : unit =
    for result in Dispatcher.call operator overload (arguments @ [ Dispatcher.Tensor out ]) 1 do
        result.Dispose()

let private half (index: int64) (x: torch.Tensor) =
    let width = x.shape[x.shape.Length - 1] / 2L
    x.narrow (-1, index * width, width)

type private SwiGluGate() =
    inherit torch.autograd.SingleTensorFunction<SwiGluGate>()

    override _.Name = nameof SwiGluGate

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let hidden = arguments[0] :?> torch.Tensor
        save ctx [ hidden ]

        if Kernels.takes hidden then
            let shape = hidden.shape
            shape[shape.Length - 1] <- shape[shape.Length - 1] / 2L
            let result = torch.empty (shape, dtype = hidden.dtype)
            Kernels.gate hidden result
            result.MoveToOuterDisposeScope()
        else
            torch.nn.functional.silu(half 0L hidden).mul_(half 1L hidden).MoveToOuterDisposeScope()

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        Returned.Of(
            gradient,
            1,
            0,
            fun () ->
                let hidden = ctx.get_saved_variables()[0]
                let gate, up = half 0L hidden, half 1L hidden
                let result = torch.empty_like hidden

                if Kernels.takes hidden && Kernels.takes gradient then
                    Kernels.gateGradient hidden gradient result
                else
                    let silu = torch.nn.functional.silu gate
                    into "aten::mul" "out" [ Dispatcher.Tensor gradient; Dispatcher.Tensor silu ] (half 1L result)
                    into "aten::mul" "out" [ Dispatcher.Tensor gradient; Dispatcher.Tensor up ] silu
                    into "aten::silu_backward" "grad_input" [ Dispatcher.Tensor silu; Dispatcher.Tensor gate ] (half 0L result)

                [ result ]
        )

/// silu(g) · u of [.., g | u]: [.., 2F] to [.., F].
let swiGluGate (hidden: torch.Tensor) : torch.Tensor =
    if Derivative.Composed then
        torch.nn.functional.silu(half 0L hidden).mul(half 1L hidden)
    else
        SwiGluGate.apply hidden

/// The norm, and the moments of each row that its gradient needs.
let private normed (centred: bool) (epsilon: float) (weight: torch.Tensor) (bias: torch.Tensor option) (x: torch.Tensor) =
    let moments = torch.empty ([| 2L; x.numel () / x.shape[x.shape.Length - 1] |], dtype = torch.float32)
    let result = torch.empty_like x
    Kernels.norm centred epsilon weight bias x moments result
    result, moments

type private Norm() =
    inherit torch.autograd.SingleTensorFunction<Norm>()

    override _.Name = nameof Norm

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let x, weight, bias = arguments[0] :?> torch.Tensor, arguments[1] :?> torch.Tensor, arguments[2]
        let centred, epsilon = arguments[3] :?> bool, arguments[4] :?> float

        let bias =
            match bias with
            | :? torch.Tensor as bias -> Some bias
            | _ -> None

        let result, moments = normed centred epsilon weight bias x
        save ctx [ x; weight; moments ]
        ctx.save_data ("centred", centred)
        ctx.save_data ("biased", bias.IsSome)
        result.MoveToOuterDisposeScope()

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        let biased = ctx.get_data "biased" :?> bool

        Returned.Of(
            gradient,
            (if biased then 3 else 2),
            (if biased then 2 else 3),
            fun () ->
                let saved = ctx.get_saved_variables ()
                let x, weight = saved[0], saved[1]
                let result = torch.empty_like x
                let parameters = torch.zeros ([| 2L; weight.numel () |], dtype = torch.float32)

                Kernels.normGradient
                    (ctx.get_data "centred" :?> bool)
                    weight
                    x
                    saved[2]
                    (gradient.contiguous ())
                    parameters
                    result

                let half = parameters.``to`` weight.dtype

                [
                    yield! [ result; half[0L] ]
                    if biased then
                        half[1L]
                ]
        )

/// (x − mean) / √(variance + ε) · weight + bias over the last axis; without its mean where it is not `centred`, without a bias where
/// there is none. For a tensor that `Kernels.takes`.
let internal norm
    (centred: bool)
    (epsilon: float)
    (weight: torch.Tensor)
    (bias: torch.Tensor option)
    (x: torch.Tensor)
    : torch.Tensor =
    if torch.is_grad_enabled () then
        let bias: obj =
            match bias with
            | Some bias -> bias
            | None -> false

        Norm.apply (x, weight, bias, centred, epsilon)
    else
        let result, moments = normed centred epsilon weight bias x
        moments.Dispose()
        result

/// Packed positions [N, W] in their rows: [B, T, W], 0 in the gaps.
let internal spread (rows: PackedRows) (x_NW: torch.Tensor) : torch.Tensor =
    let zero = torch.zeros ([| 1L; x_NW.shape[1] |], dtype = x_NW.dtype, device = x_NW.device)
    torch.cat([| x_NW; zero |], 0L).index_select(0L, rows.Sources).view(rows.Sequences, rows.Positions, -1L)

/// The way back: [N, W] of [B, T, W].
let internal gather (rows: PackedRows) (x_BTW: torch.Tensor) : torch.Tensor =
    x_BTW.reshape(rows.Sequences * rows.Positions, -1L).index_select(0L, rows.Places)

let private saveRows (ctx: Context) (rows: PackedRows) : unit =
    ctx.save_data ("rows", rows)
    save ctx [ rows.Places; rows.Sources ]

let private savedRows (ctx: Context) : PackedRows =
    let saved = ctx.get_saved_variables ()
    { (ctx.get_data "rows" :?> PackedRows) with Places = saved[0]; Sources = saved[1] }

type private Unpack() =
    inherit torch.autograd.SingleTensorFunction<Unpack>()

    override _.Name = nameof Unpack

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let rows = arguments[1] :?> PackedRows
        saveRows ctx rows
        (spread rows (arguments[0] :?> torch.Tensor)).MoveToOuterDisposeScope()

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        Returned.Of(gradient, 1, 1, fun () -> [ gather (savedRows ctx) gradient ])

/// Packed positions [N, W] in their rows: [B, T, W], 0 in the gaps.
let unpack (rows: PackedRows) (x_NW: torch.Tensor) : torch.Tensor =
    if Derivative.Composed then spread rows x_NW else Unpack.apply (x_NW, rows)

type private Pack() =
    inherit torch.autograd.SingleTensorFunction<Pack>()

    override _.Name = nameof Pack

    override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let rows = arguments[1] :?> PackedRows
        saveRows ctx rows
        (gather rows (arguments[0] :?> torch.Tensor)).MoveToOuterDisposeScope()

    override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
        Returned.Of(gradient, 1, 1, fun () -> [ spread (savedRows ctx) gradient ])

/// Positions of rows [B, T, W] packed: [N, W].
let pack (rows: PackedRows) (x_BTW: torch.Tensor) : torch.Tensor =
    if Derivative.Composed then gather rows x_BTW else Pack.apply (x_BTW, rows)

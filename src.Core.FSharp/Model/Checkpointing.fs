/// Activation checkpointing: what the backward pass needs is computed again there instead of being kept from the forward pass.
namespace Hybrid

open System
open System.Collections.Generic
open TorchSharp

/// What of each block is kept for the backward pass.
[<RequireQualifiedAccess>]
type Checkpointing =
    /// All that the gradients need
    | None
    /// What products of matrices gave, and the residual stream; norms, gates and softmax are computed again
    | Selective
    /// The block's input; the whole block is computed again
    | Full

/// The names of the ways, for configurations.
module Checkpointing =

    /// Each choice with its name, the fastest first.
    let names: (string * Checkpointing) list =
        [ "none", Checkpointing.None; "selective", Checkpointing.Selective; "full", Checkpointing.Full ]

    /// A choice's name.
    let name (checkpointing: Checkpointing) : string = JsonForm.nameIn names checkpointing

/// Functions that are computed once more in the backward pass. Parameters collect their gradients there, by `backward`; so
/// `torch.autograd.grad` does not see through these. An exception in a backward function ends the process: all that can be
/// wrong with the arguments shows in the forward pass, which does the same work first.
module internal Recompute =

    type private Context = torch.autograd.AutogradContext

    /// A function of a tensor, and of tensors that must outlive the forward pass.
    [<NoEquality; NoComparison>]
    type private Again =
        {
            Run: torch.Tensor list -> torch.Tensor -> torch.Tensor
            /// Is told when the backward pass is over
            Done: unit -> unit
            Constants: torch.Tensor list
            InputMoves: bool
            WeightMoves: bool
            BiasMoves: bool
            Arguments: int
        }

    let private collects (tensor: torch.Tensor) = tensor.requires_grad

    /// Runs the function on a copy of its input that has a graph of its own.
    let private again (plan: Again) (constants: torch.Tensor seq) (x: torch.Tensor) : torch.Tensor * torch.Tensor =
        use _ = torch.enable_grad ()
        let input = x.detach ()
        input.requires_grad <- plan.InputMoves
        input, plan.Run (List.ofSeq constants) input

    /// What a backward function returns: a gradient or nothing for each argument.
    let private returned (gradients: torch.Tensor option list) (arguments: int) : List<torch.Tensor> =
        Fused.Returned.Keep([ for gradient in List.choose id gradients -> gradient.DetachFromDisposeScope() ], 0)
        |> ignore

        let all = gradients @ List.replicate (arguments - gradients.Length) None
        List<torch.Tensor>(all |> List.map (Option.defaultValue Unchecked.defaultof<_>))

    /// What a backward function returns where its result would have to be differentiated; says which arguments are tensors.
    let private refused (tensors: bool list) (plan: Again) : List<torch.Tensor> =
        Fused.Returned.Failing(InvalidOperationException Derivative.Once, List.truncate plan.Arguments tensors)

    let private gradientOf (plan: Again) (input: torch.Tensor) = if plan.InputMoves then Option.ofObj input.grad else None

    // A function's result has a graph only where an argument has one. Where the input has none, a parameter that moves stands in
    // for all that the function reads; it gets nothing by this way.
    let private witness (x: torch.Tensor) (parameters: torch.Tensor list) : obj list =
        if collects x then
            []
        else
            [ for parameter in List.tryFind collects parameters |> Option.toList -> parameter :> obj ]

    type private Whole() =
        inherit torch.autograd.SingleTensorFunction<Whole>()

        override _.Name = nameof Whole

        override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
            use scope = torch.NewDisposeScope()
            let x, plan = arguments[0] :?> torch.Tensor, arguments[1] :?> Again
            Fused.save ctx (x :: plan.Constants)
            ctx.save_data ("plan", { plan with Constants = [] })
            (plan.Run plan.Constants x).MoveToOuterDisposeScope()

        override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
            use scope = torch.NewDisposeScope()
            use _ = gradient
            let plan = ctx.get_data "plan" :?> Again

            if torch.is_grad_enabled () then
                refused [ true; false; true ] plan
            else
                let saved = ctx.get_saved_variables ()
                let input, y = again plan (Seq.tail saved) saved[0]
                torch.autograd.backward (y, gradient)
                plan.Done()
                returned [ gradientOf plan input ] plan.Arguments

    /// `run constants x`, of which x and the constants are kept. `parameters` are the weights that `run` reads by itself; `over` is told
    /// when the backward pass is over.
    let wholeThen
        (over: unit -> unit)
        (run: torch.Tensor list -> torch.Tensor -> torch.Tensor)
        (constants: torch.Tensor list)
        (parameters: torch.Tensor list)
        (x: torch.Tensor)
        : torch.Tensor =
        if Derivative.Composed || not (torch.is_grad_enabled ()) || not (List.exists collects (x :: parameters)) then
            run constants x
        else
            use scope = torch.NewDisposeScope()
            let others = witness x parameters

            let plan =
                {
                    Run = run
                    Done = over
                    Constants = constants
                    InputMoves = collects x
                    WeightMoves = false
                    BiasMoves = false
                    Arguments = 2 + others.Length
                }

            let arguments: obj list = [ x; plan ]
            Whole.apply(List.toArray (arguments @ others)).MoveToOuterDisposeScope()

    /// `wholeThen` with nobody told.
    let whole run constants parameters x : torch.Tensor = wholeThen ignore run constants parameters x

    let private flat (x: torch.Tensor) = x.reshape (-1L, x.shape[x.shape.Length - 1])

    type private Product() =
        inherit torch.autograd.SingleTensorFunction<Product>()

        override _.Name = nameof Product

        override _.forward(ctx: Context, [<ParamArray>] arguments: obj[]) : torch.Tensor =
            use scope = torch.NewDisposeScope()
            let x, plan, weight = arguments[0] :?> torch.Tensor, arguments[1] :?> Again, arguments[2] :?> torch.Tensor
            let hidden = plan.Run [] x
            Fused.save ctx [ x; weight ]
            ctx.save_data ("plan", { plan with Constants = [] })

            match plan.Constants with
            | [ bias ] -> torch.nn.functional.linear (hidden, weight, bias)
            | _ -> torch.nn.functional.linear (hidden, weight)
            |> _.MoveToOuterDisposeScope()

        override _.backward(ctx: Context, gradient: torch.Tensor) : List<torch.Tensor> =
            use scope = torch.NewDisposeScope()
            use _ = gradient
            let plan = ctx.get_data "plan" :?> Again

            if torch.is_grad_enabled () then
                refused [ true; false; true; plan.BiasMoves; true ] plan
            else
                let saved = ctx.get_saved_variables ()
                let input, hidden = again plan [] saved[0]
                let outer = flat gradient
                let weight = if plan.WeightMoves then Some(outer.t().mm(flat (hidden.detach ()))) else None
                let bias = if plan.BiasMoves then Some(outer.sum 0L) else None

                if collects hidden then
                    torch.autograd.backward (hidden, outer.mm(saved[1]).view hidden.shape)

                returned [ gradientOf plan input; None; weight; bias ] plan.Arguments

    /// y = f(x) Wᵀ, + b where there is one, of which x is kept and f(x) computed again: for an f that costs little beside the
    /// product. `parameters` are the weights that f reads by itself.
    let product
        (f: torch.Tensor -> torch.Tensor)
        (parameters: torch.Tensor list)
        (weight: torch.Tensor)
        (bias: torch.Tensor option)
        (x: torch.Tensor)
        : torch.Tensor =
        if Derivative.Composed then
            match bias with
            | Some bias -> torch.nn.functional.linear (f x, weight, bias)
            | None -> torch.nn.functional.linear (f x, weight)
        else
            use scope = torch.NewDisposeScope()
            let others = witness x parameters

            let plan =
                {
                    Run = fun _ -> f
                    Done = ignore
                    Constants = Option.toList bias
                    InputMoves = collects x
                    WeightMoves = collects weight
                    BiasMoves = bias |> Option.exists collects
                    // A place for the bias in any case, so that places are fixed.
                    Arguments = 4 + others.Length
                }

            let bias: obj =
                match bias with
                | Some bias -> bias
                | None -> plan

            let arguments: obj list = [ x; plan; weight; bias ]
            Product.apply(List.toArray (arguments @ others)).MoveToOuterDisposeScope()

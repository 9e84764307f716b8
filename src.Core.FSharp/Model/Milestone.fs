/// Marks in a graph that say, in the backward pass, how far it has come.
module internal Hybrid.Milestone

open System
open System.Collections.Generic
open TorchSharp

type private Passing() =
    inherit torch.autograd.SingleTensorFunction<Passing>()

    override _.Name = nameof Passing

    override _.forward(ctx: torch.autograd.AutogradContext, [<ParamArray>] arguments: obj[]) : torch.Tensor =
        ctx.save_data ("passed", arguments[1])
        (arguments[0] :?> torch.Tensor).alias()

    override _.backward(ctx: torch.autograd.AutogradContext, gradient: torch.Tensor) : List<torch.Tensor> =
        Fused.Returned.Of(
            gradient,
            1,
            1,
            fun () ->
                (ctx.get_data "passed" :?> Action).Invoke()
                [ gradient.alias () ]
        )

/// x itself. When its gradient comes by, all that was computed from it afterwards has its gradients: autograd works through what is
/// ready in the reverse order of its making, and parameters' gradients before all else. `passed` is told then.
let mark (passed: unit -> unit) (x: torch.Tensor) : torch.Tensor =
    if torch.is_grad_enabled () && x.requires_grad && not Derivative.Composed then
        Passing.apply (x, Action passed)
    else
        x

/// The C# door to derivatives of composed functions.
namespace Hybrid.Api

open System
open Hybrid
open TorchSharp

/// Derivatives of functions of a tensor, as `Differentiate` has them: functions may be made of derivatives, what a function does not depend
/// on has the derivative zero, and the caller owns the results.
///
/// Errors: ShapeException for an argument or a result that is not floating-point, a result that is not a scalar where one is needed, and a
/// direction of another shape or type; InvalidOperationException where torch has no derivative for an operator.
[<AbstractClass; Sealed>]
type Derivatives private () =

    /// ∇f(x), of the shape of x, of an f that gives a scalar.
    static member Grad(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : torch.Tensor = Differentiate.grad f.Invoke x

    /// f(x), a scalar, and ∇f(x), of the shape of x.
    static member ValueAndGrad(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : struct (torch.Tensor * torch.Tensor) =
        let value, gradient = Differentiate.valueAndGrad f.Invoke x
        struct (value, gradient)

    /// J v, of the shape of f(x): how f changes as x moves along v, of the shape of x.
    static member Jvp(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor, v: torch.Tensor) : torch.Tensor =
        Differentiate.jvp f.Invoke x v

    /// Jᵀ v, of the shape of x, for a v of the shape of f(x).
    static member Vjp(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor, v: torch.Tensor) : torch.Tensor =
        Differentiate.vjp f.Invoke x v

    /// H v with H = ∂²f/∂x², of the shape of x, of an f that gives a scalar.
    static member Hvp(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor, v: torch.Tensor) : torch.Tensor =
        Differentiate.hvp f.Invoke x v

    /// ∂f/∂x, of shape [shape of f(x), shape of x]; a backward pass for each element of f(x).
    static member Jacobian(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : torch.Tensor =
        Differentiate.jacobian f.Invoke x

    /// ∂²f/∂x², of shape [shape of x, shape of x], of an f that gives a scalar; a backward pass for each element of x.
    static member Hessian(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : torch.Tensor = Differentiate.hessian f.Invoke x

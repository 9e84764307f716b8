/// The C# door to derivatives.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// Derivatives of functions of tensors over torch's autograd, by DiffSharp's names (the core's `Differentiate`). A call leaves its results only, which the caller owns; whatever else a
/// function reads is constant. Where the function does not depend on its argument the derivative is zero. Functions may themselves be made
/// of derivatives.
///
/// Errors: ShapeException for an argument or a result that is no floating-point tensor, a result that is not a scalar where one is needed,
/// and a tangent of another shape or type; InvalidOperationException where torch has no derivative for an operator.
[<AbstractClass; Sealed>]
type Derivatives private () =

    static let pair (value: torch.Tensor, derivative: torch.Tensor) = struct (value, derivative)

    static let byName (gradients: Map<string, torch.Tensor>) : IReadOnlyDictionary<string, torch.Tensor> = gradients

    static let ofWeights (f: Func<Func<string, torch.Tensor>, torch.Tensor>) (weights: Weights) = f.Invoke(Func<_, _> weights)

    /// ∇f(x) of an f that gives a scalar; of the shape of x.
    static member Grad(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : torch.Tensor = Differentiate.grad f.Invoke x

    /// f(x), a scalar, and ∇f(x), of the shape of x.
    static member ValueAndGrad(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : struct (torch.Tensor * torch.Tensor) =
        Differentiate.valueAndGrad f.Invoke x |> pair

    /// J v, of the shape of f(x): how f changes as x moves along v, of the shape of x.
    static member Jvp(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor, v: torch.Tensor) : torch.Tensor =
        Differentiate.jvp f.Invoke x v

    /// Jᵀ v, of the shape of x, for a v of the shape of f(x).
    static member Vjp(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor, v: torch.Tensor) : torch.Tensor =
        Differentiate.vjp f.Invoke x v

    /// ∂f/∂x, of shape [shape of f(x), shape of x]; a backward pass for each element of f(x).
    static member Jacobian(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : torch.Tensor =
        Differentiate.jacobian f.Invoke x

    /// H v with H = ∂²f/∂x², of the shape of x, of an f that gives a scalar.
    static member Hvp(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor, v: torch.Tensor) : torch.Tensor =
        Differentiate.hvp f.Invoke x v

    /// ∂²f/∂x², of shape [shape of x, shape of x], of an f that gives a scalar; a backward pass for each element of x.
    static member Hessian(f: Func<torch.Tensor, torch.Tensor>, x: torch.Tensor) : torch.Tensor = Differentiate.hessian f.Invoke x

    /// The gradient of a scalar function of weights by each of the named parameters; others are constant. Errors: KeyNotFoundException for
    /// a name that is no parameter; ArgumentException for a name given twice, or none.
    static member GradOf
        (names: IEnumerable<string>, f: Func<Func<string, torch.Tensor>, torch.Tensor>, weights: Func<string, torch.Tensor>)
        : IReadOnlyDictionary<string, torch.Tensor> =
        Differentiate.gradOf (List.ofSeq names) (ofWeights f) weights.Invoke |> byName

    /// The product of the hessian of a scalar function of weights with `direction`, over the named parameters. Errors: as
    /// `GradOf`, and ShapeException for a direction of another shape or type.
    static member HvpOf
        (
            names: IEnumerable<string>,
            f: Func<Func<string, torch.Tensor>, torch.Tensor>,
            weights: Func<string, torch.Tensor>,
            direction: Func<string, torch.Tensor>
        ) : IReadOnlyDictionary<string, torch.Tensor> =
        Differentiate.hvpOf (List.ofSeq names) (ofWeights f) weights.Invoke direction.Invoke |> byName

/// Linear maps that are applied many times: looked up once, with what follows a product done in the same pass, and with weights in
/// the layout that the processor's library multiplies by (oneDNN), so that it does not arrange them anew in every call.
namespace Hybrid

open System
open System.Runtime.InteropServices
open System.Runtime.Intrinsics.X86
open TorchSharp

/// y = x Wᵀ + b over rows [N, in], with what follows. It does not own the weights it is given, only their packed copy.
[<Sealed>]
type Projection private (weight: torch.Tensor, packed: torch.Tensor option, bias: torch.Tensor option) =
    static let pack = Dispatcher.Operator("mkldnn::_reorder_linear_weight", "")
    static let pointwise = Dispatcher.Operator("mkldnn::_linear_pointwise", "")
    static let binary = Dispatcher.Operator("mkldnn::_linear_pointwise", "binary")

    let bias' =
        match bias with
        | Some bias -> Dispatcher.SomeTensor bias
        | None -> Dispatcher.Absent

    let plain (x: torch.Tensor) =
        match bias with
        | Some bias -> torch.nn.functional.linear (x, weight, bias)
        | None -> torch.nn.functional.linear (x, weight)

    let fused (name: string) (algorithm: Dispatcher.Argument) (packed: torch.Tensor) (x: torch.Tensor) =
        pointwise.Call(
            Dispatcher.Tensor x,
            Dispatcher.Tensor packed,
            bias',
            Dispatcher.Word name,
            Dispatcher.Tensors [],
            algorithm
        )

    let both (name: string) (packed: torch.Tensor) (other: torch.Tensor) (x: torch.Tensor) =
        binary.Call(Dispatcher.Tensor x, Dispatcher.Tensor other, Dispatcher.Tensor packed, bias', Dispatcher.Word name)

    /// Whether weights of this type are packed on this machine.
    static member Packs(device: torch.Device, elementType: torch.ScalarType) : bool =
        device.``type`` = DeviceType.CPU
        && RuntimeInformation.ProcessArchitecture = Architecture.X64
        && (elementType = torch.float32 || (elementType = torch.bfloat16 && Avx512BW.IsSupported && Avx512DQ.IsSupported))

    /// A map by W [out, in] and b [out]; packed for products of about `rows` rows.
    static member Make(weight: torch.Tensor, bias: torch.Tensor option, packing: bool, rows: int) : Projection =
        let packed =
            if packing && Projection.Packs(weight.device, weight.dtype) then
                use plain = weight.detach ()
                Some(pack.Call(Dispatcher.Tensor plain, Dispatcher.SomeInteger(int64 rows)).DetachFromDisposeScope())
            else
                None

        new Projection(weight, packed, bias)

    /// x Wᵀ + b.
    member _.Apply(x: torch.Tensor) : torch.Tensor =
        match packed with
        | Some packed -> fused "none" Dispatcher.Absent packed x
        | None -> plain x

    /// f(x Wᵀ + b), f the activation of a feed-forward layer (of its gate, where it has one).
    member _.Activated(activation: FeedForward, x: torch.Tensor) : torch.Tensor =
        match packed, activation with
        | Some packed, SwiGlu -> fused "swish" Dispatcher.Absent packed x
        | Some packed, (GeGlu | Gelu) -> fused "gelu" (Dispatcher.SomeWord "none") packed x
        | Some packed, GeluTanh -> fused "gelu" (Dispatcher.SomeWord "tanh") packed x
        | Some packed, Relu -> fused "relu" Dispatcher.Absent packed x
        | None, SwiGlu -> torch.nn.functional.silu (plain x)
        | None, (GeGlu | Gelu) -> torch.nn.functional.gelu (plain x)
        | None, GeluTanh -> Dispatcher.geluTanh (plain x)
        | None, Relu -> torch.nn.functional.relu (plain x)

    /// x Wᵀ + b + other.
    member _.Plus(other: torch.Tensor, x: torch.Tensor) : torch.Tensor =
        match packed with
        | Some packed -> both "add" packed other x
        | None -> (plain x).plus_ other

    /// (x Wᵀ + b) · other.
    member _.Times(other: torch.Tensor, x: torch.Tensor) : torch.Tensor =
        match packed with
        | Some packed -> both "mul" packed other x
        | None -> (plain x).mul_ other

    interface IDisposable with
        member _.Dispose() =
            match packed with
            | Some packed -> packed.Dispose()
            | None -> ()

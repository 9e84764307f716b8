/// Linear maps that are applied many times: looked up once, with what follows a product done in the same pass, and with weights in
/// the layout that the processor's library multiplies by (oneDNN), so that it does not arrange them anew in every call.
namespace Hybrid

// The native stack is passed by address.
#nowarn "9"

open System
open System.Runtime.InteropServices
open System.Runtime.Intrinsics.X86
open Microsoft.FSharp.NativeInterop
open TorchSharp

/// y = x Wᵀ + b over rows [N, in], with what follows. It does not own the weights it is given, only their packed copy.
[<Sealed>]
type Projection private (weight: torch.Tensor, packed: torch.Tensor option, bias: torch.Tensor option) =
    static let pointwise = Dispatcher.Operator("mkldnn::_linear_pointwise", "")
    static let binary = Dispatcher.Operator("mkldnn::_linear_pointwise", "binary")

    // Names of what follows a product, as torch takes them.
    static let none, swish, gelu, relu = "none"B, "swish"B, "gelu"B, "relu"B
    static let add, mul, tanh = "add"B, "mul"B, "tanh"B

    let biasOrNone () =
        match bias with
        | Some bias -> Dispatcher.boxed (Dispatcher.handle bias)
        | None -> 0UL

    let plain (x: torch.Tensor) =
        match bias with
        | Some bias -> torch.nn.functional.linear (x, weight, bias)
        | None -> torch.nn.functional.linear (x, weight)

    // These run in every layer of every step: nothing is made but the stack.
    let fused (name: byte[]) (algorithm: byte[] | null) (packed: torch.Tensor) (x: torch.Tensor) =
        let stack = Span(NativePtr.toVoidPtr (NativePtr.stackalloc<uint64> 6), 6)
        stack[0] <- Dispatcher.handle x
        stack[1] <- Dispatcher.handle packed
        stack[2] <- biasOrNone ()
        stack[3] <- Dispatcher.wordOf name
        stack[4] <- Dispatcher.list []

        stack[5] <-
            match algorithm with
            | null -> 0UL
            | name -> Dispatcher.boxed (Dispatcher.wordOf name)

        pointwise.Run stack
        torch.Tensor.UnsafeCreateTensor(nativeint stack[0])

    let both (name: byte[]) (packed: torch.Tensor) (other: torch.Tensor) (x: torch.Tensor) =
        let stack = Span(NativePtr.toVoidPtr (NativePtr.stackalloc<uint64> 5), 5)
        stack[0] <- Dispatcher.handle x
        stack[1] <- Dispatcher.handle other
        stack[2] <- Dispatcher.handle packed
        stack[3] <- biasOrNone ()
        stack[4] <- Dispatcher.wordOf name
        binary.Run stack
        torch.Tensor.UnsafeCreateTensor(nativeint stack[0])

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
                let arguments = [ Dispatcher.Tensor plain; Dispatcher.SomeInteger(int64 rows) ]
                let packed = Dispatcher.call "mkldnn::_reorder_linear_weight" "" arguments 1 |> List.head
                Some(packed.DetachFromDisposeScope())
            else
                None

        new Projection(weight, packed, bias)

    /// x Wᵀ + b.
    member _.Apply(x: torch.Tensor) : torch.Tensor =
        match packed with
        | Some packed -> fused none null packed x
        | None -> plain x

    /// f(x Wᵀ + b), f the activation of a feed-forward layer (of its gate, where it has one).
    member _.Activated(activation: FeedForward, x: torch.Tensor) : torch.Tensor =
        match packed, activation with
        | Some packed, SwiGlu -> fused swish null packed x
        | Some packed, (GeGlu | Gelu) -> fused gelu none packed x
        | Some packed, GeluTanh -> fused gelu tanh packed x
        | Some packed, Relu -> fused relu null packed x
        | None, SwiGlu -> torch.nn.functional.silu (plain x)
        | None, (GeGlu | Gelu) -> torch.nn.functional.gelu (plain x)
        | None, GeluTanh -> Dispatcher.geluTanh (plain x)
        | None, Relu -> torch.nn.functional.relu (plain x)

    /// x Wᵀ + b + other.
    member _.Plus(other: torch.Tensor, x: torch.Tensor) : torch.Tensor =
        match packed with
        | Some packed -> both add packed other x
        | None -> (plain x).plus_ other

    /// (x Wᵀ + b) · other.
    member _.Times(other: torch.Tensor, x: torch.Tensor) : torch.Tensor =
        match packed with
        | Some packed -> both mul packed other x
        | None -> (plain x).mul_ other

    interface IDisposable with
        member _.Dispose() =
            match packed with
            | Some packed -> packed.Dispose()
            | None -> ()

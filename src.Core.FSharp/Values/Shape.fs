/// Shapes are checked once at each border of the library; inside, the suffix of a name gives its axes:
///
///   B batch · T position · D width · H heads · C width of a head · F width of the feed-forward layer · V vocabulary
///   N pairs · K codes of a picture
namespace Hybrid

open System
open TorchSharp

/// A tensor of a shape or type that a function cannot take. The message says which argument, what it was, what it must be.
type ShapeException
    /// A sentence: which argument, what it was, what it must be.
    (message: string) =
    inherit ArgumentException(message)

/// Input that is wrong in itself: a file, a configuration, a checkpoint. The message is a sentence for the person who gave it:
/// what is wrong, where, and what to do.
type InputException
    /// A sentence for the person who gave the input, and what was thrown before it.
    (message: string, inner: exn | null) =
    inherit Exception(message, inner)
    /// A sentence for the person who gave the input.
    new(message: string) = InputException(message, null)

/// Shape checks at the borders.
module Shape =

    /// The shape as text, such as [32, 96, 256].
    let show (shape: int64[]) : string = "[" + String.Join(", ", shape) + "]"

    /// Checks a tensor's shape; -1 stands for any length. Errors: ShapeException naming the argument.
    let require (name: string) (expected: int64 list) (tensor: torch.Tensor) : unit =
        let actual = tensor.shape

        let fits = actual.Length = expected.Length && Seq.forall2 (fun e a -> e = -1L || e = a) expected actual

        if not fits then
            let wanted = String.Join(", ", expected |> List.map (fun e -> if e = -1L then "any" else string e))

            raise (ShapeException $"{name} has shape {show actual}; it must have shape [{wanted}].")

    /// Checks a tensor's element type. Errors: ShapeException naming the argument.
    let requireType (name: string) (expected: torch.ScalarType) (tensor: torch.Tensor) : unit =
        if tensor.dtype <> expected then
            raise (ShapeException $"{name} has element type {tensor.dtype}; it must have {expected}.")

/// Tensors from host arrays (TorchSharp's overloads are ambiguous from F#).
module Host =

    /// An int64 tensor with these values.
    let int64s (shape: int64 list) (values: int64[]) : torch.Tensor =
        use flat = torch.tensor (values, dtype = torch.int64)
        flat.reshape (List.toArray shape)

    /// An fp32 tensor with these values.
    let floats (shape: int64 list) (values: float32[]) : torch.Tensor =
        use flat = torch.tensor (values, dtype = torch.float32)
        flat.reshape (List.toArray shape)

    /// A host tensor on a device; where it is there already, the same object. To a GPU it goes through pinned memory: a plain copy
    /// would wait until everything that is queued there is done.
    let onto (device: torch.Device) (tensor: torch.Tensor) : torch.Tensor =
        if device.``type`` = DeviceType.CUDA then
            use pinned = tensor.pin_memory ()
            pinned.``to`` (device, non_blocking = true)
        else
            tensor.``to`` device

/// Scalars as arguments of torch. TorchSharp passes a scalar's address without keeping the object alive, so one that nothing else
/// refers to can be collected while torch reads it. Here each thread keeps its last ones, far more than one call takes.
[<AbstractClass; Sealed>]
type Scalars private () =
    static let kept = 256

    [<ThreadStatic; DefaultValue>]
    static val mutable private ring: Scalar[] | null

    [<ThreadStatic; DefaultValue>]
    static val mutable private next: int

    static let keep (scalar: Scalar) : Scalar =
        let ring =
            match Scalars.ring with
            | null ->
                let made = Array.zeroCreate kept
                Scalars.ring <- made
                made
            | ring -> ring

        ring[Scalars.next] <- scalar
        Scalars.next <- (Scalars.next + 1) % kept
        scalar

    /// A double as a scalar.
    static member Of(value: float) : Scalar = keep (value.ToScalar())

    /// An integer as a scalar.
    static member Of(value: int64) : Scalar = keep (value.ToScalar())

    /// An integer as a scalar.
    static member Of(value: int) : Scalar = keep (int64(value).ToScalar())

    /// 1, which sums take as the factor of their second term.
    static member val One: Scalar = (1L).ToScalar()

/// Sums whose factor stays alive: TorchSharp's own `add` and `+` make one that can be collected in the middle of the call.
[<AutoOpen>]
module Sums =
    type torch.Tensor with

        /// this + other.
        member a.plus(other: torch.Tensor) : torch.Tensor = a.add (other, Scalars.One)

        /// this + value.
        member a.plus(value: float) : torch.Tensor = a.add (Scalars.Of value, Scalars.One)

        /// this + value.
        member a.plus(value: int64) : torch.Tensor = a.add (Scalars.Of value, Scalars.One)

        /// this + other, in place.
        member a.plus_(other: torch.Tensor) : torch.Tensor = a.add_ (other, Scalars.One)

        /// this + value, in place.
        member a.plus_(value: float) : torch.Tensor = a.add_ (Scalars.Of value, Scalars.One)

/// The C# door to the quality of sets of pictures.
namespace Hybrid.Api

open System
open TorchSharp
open Hybrid

/// How far a set of generated pictures is from a set of real ones, by their features: arrays [pictures, width], or tensors.
[<AbstractClass; Sealed>]
type Fidelity private () =

    static let tensor (features: float32[,]) =
        let rows, width = features.GetLength 0, features.GetLength 1
        let flat = Array.zeroCreate<float32>(rows * width)
        Buffer.BlockCopy(features, 0, flat, 0, flat.Length * sizeof<float32>)
        Host.floats [ int64 rows; int64 width ] flat

    static let both (f: torch.Tensor -> torch.Tensor -> 'R) (real: float32[,]) (generated: float32[,]) : 'R =
        use _ = torch.NewDisposeScope()
        f (tensor real) (tensor generated)

    /// The Fréchet distance (FID where the features are Inception's). Errors: InputException for fewer than two rows, numbers that
    /// are not finite, or widths that differ.
    static member Frechet(real: torch.Tensor, generated: torch.Tensor) : FrechetDistance = Frechet.ofFeatures real generated

    /// The same of arrays.
    static member Frechet(real: float32[,], generated: float32[,]) : FrechetDistance = both Frechet.ofFeatures real generated

    /// The Fréchet distance and its standard error, NaN with no more rows than columns. Errors: as `Frechet`.
    static member FrechetWithError(real: torch.Tensor, generated: torch.Tensor) : struct (FrechetDistance * float) =
        Frechet.withError real generated

    /// The same of arrays.
    static member FrechetWithError(real: float32[,], generated: float32[,]) : struct (FrechetDistance * float) =
        both Frechet.withError real generated

    /// The unbiased kernel distance over all samples (KID where the features are Inception's), with its standard error. Errors: as
    /// `Frechet`.
    static member Kid(real: torch.Tensor, generated: torch.Tensor) : KernelEstimate =
        KernelDistance.unbiased ignore real generated

    /// The same of arrays.
    static member Kid(real: float32[,], generated: float32[,]) : KernelEstimate =
        both (KernelDistance.unbiased ignore) real generated

    /// Precision, recall, density and coverage with balls to the `neighbours`-th other. Errors: as `Frechet`, and InputException for a
    /// set of no more samples than that.
    static member Neighbours(real: torch.Tensor, generated: torch.Tensor, neighbours: int) : NeighbourShares =
        Neighbourhoods.measure ignore neighbours real generated

    /// The same of arrays.
    static member Neighbours(real: float32[,], generated: float32[,], neighbours: int) : NeighbourShares =
        both (Neighbourhoods.measure ignore neighbours) real generated

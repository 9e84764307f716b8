/// Features of pictures, and their sums.
///
///   N samples · D width of a feature
namespace Hybrid

open System
open TorchSharp

/// Features: a matrix with a row for each picture.
module Features =

    /// Rows that are gone over together in double precision: at most 128 MiB of them, and so few that a matrix of all pairs of two
    /// blocks has no more than 32 MiB.
    let rowsTogether (width: int64) : int64 = max 1L (min 2048L ((1L <<< 24) / max 1L width))

    /// The rows in blocks, in double precision on the device of the features. Each block is released after `action`.
    let internal blocks (features_ND: torch.Tensor) (action: int64 -> torch.Tensor -> unit) : unit =
        let rows, together = features_ND.shape[0], rowsTogether features_ND.shape[1]

        for first in 0L .. together .. rows - 1L do
            use _ = torch.NewDisposeScope()
            action first (features_ND.narrow(0L, first, min together (rows - first)).``to`` torch.float64)

    let internal number (scalar: torch.Tensor) : float =
        use _ = torch.NewDisposeScope()
        scalar.detach().cpu().``to``(torch.float64).data<float>()[0L]

    let internal numbers (values: torch.Tensor) : float[] =
        use _ = torch.NewDisposeScope()
        values.detach().cpu().``to``(torch.float64).contiguous().data<float>().ToArray()

    let private whereNotFinite (features_ND: torch.Tensor) : struct (int64 * int64 * float) option =
        let mutable found = ValueNone

        blocks features_ND (fun first block ->
            if found.IsNone && not (number (block.isfinite().all()) > 0.5) then
                let width = block.shape[1]
                let index = Array.findIndex (fun x -> not (Double.IsFinite x)) (numbers block)
                let row, column = int64 index / width, int64 index % width
                found <- ValueSome(struct (first + row, column, (numbers block)[index])))

        match found with
        | ValueSome place -> Some place
        | ValueNone -> None

    /// Checks features [N, D]: numbers with a point, at least two rows (a covariance needs them), all finite.
    /// Errors: InputException naming `name`, the row and the column.
    let require (name: string) (features_ND: torch.Tensor) : unit =
        if features_ND.dim () <> 2L then
            raise (
                InputException
                    $"{name} has shape {Shape.show features_ND.shape}; features are [pictures, width], one row for each picture."
            )

        if not (torch.is_floating_point features_ND) then
            raise (InputException $"{name} holds numbers of type {features_ND.dtype}; features are float16, float32 or float64.")

        if features_ND.shape[1] < 1L then
            raise (InputException $"{name} has features of width 0.")

        if features_ND.shape[0] < 2L then
            raise (InputException $"{name} holds {features_ND.shape[0]} sample(s); a covariance needs two at least.")

        match whereNotFinite features_ND with
        | Some(struct (row, column, value)) ->
            raise (
                InputException
                    $"{name} is not finite in row {row}, column {column} ({value}). The extractor failed on that picture; leave the row out, or extract it again."
            )
        | None -> ()

    /// Checks that both sets have features of one width. Errors: InputException.
    let requireAlike (real_ND: torch.Tensor) (generated_MD: torch.Tensor) : unit =
        if real_ND.shape[1] <> generated_MD.shape[1] then
            raise (
                InputException
                    $"the real features are {real_ND.shape[1]} wide and the generated ones {generated_MD.shape[1]}; both sets need the same extractor."
            )

/// Count, mean and covariance of features that come in parts: memory for D² doubles, whatever the number of samples. Sums about
/// the running mean, in double precision (Chan, Golub & LeVeque 1979), so a large mean costs no digits.
[<Sealed>]
type FeatureMoments(width: int64) =
    let mean_D = torch.zeros ([| width |], dtype = torch.float64)
    let scatter_DD = torch.zeros ([| width; width |], dtype = torch.float64)
    let mutable count = 0L

    do
        mean_D.DetachFromDisposeScope() |> ignore
        scatter_DD.DetachFromDisposeScope() |> ignore

    // Adds n samples with this mean and this scatter about it.
    let merge (n: int64) (mean: torch.Tensor) (scatter: torch.Tensor) =
        use _ = torch.NewDisposeScope()
        let total = count + n
        let delta = mean - mean_D
        let weight = float count * float n / float total
        scatter_DD.plus_ scatter |> ignore
        scatter_DD.plus_ (torch.outer(delta, delta).mul(Scalars.Of weight)) |> ignore
        mean_D.plus_ (delta.mul (Scalars.Of(float n / float total))) |> ignore
        count <- total

    /// Samples so far.
    member _.Count: int64 = count

    /// The width of a feature.
    member _.Width: int64 = width

    /// μ [D], float64. It changes as samples are added.
    member _.Mean: torch.Tensor = mean_D

    /// Σ [D, D] with n − 1, a new tensor. Errors: InputException for fewer than two samples.
    member _.Covariance() : torch.Tensor =
        if count < 2L then
            raise (InputException $"there are {count} sample(s); a covariance needs two at least.")

        scatter_DD.div (Scalars.Of(float (count - 1L)))

    /// Adds features [N, D] of any type and device. Errors: ShapeException for another width.
    member _.Add(features_ND: torch.Tensor) : unit =
        Shape.require "features" [ -1L; width ] features_ND
        use _ = torch.no_grad ()

        Features.blocks features_ND (fun _ block ->
            let mean = block.mean [| 0L |]
            let centred = block - mean
            merge block.shape[0] (mean.cpu ()) (centred.t().mm(centred).cpu()))

    /// Adds the samples of another sum. Errors: ShapeException for another width.
    member _.Add(other: FeatureMoments) : unit =
        Shape.require "moments" [ width ] other.Mean

        if other.Count > 0L then
            use _ = torch.NewDisposeScope()

            let scatter =
                if other.Count < 2L then
                    torch.zeros_like scatter_DD
                else
                    other.Covariance().mul(Scalars.Of(float (other.Count - 1L)))

            merge other.Count other.Mean scatter

    interface IDisposable with
        member _.Dispose() =
            mean_D.Dispose()
            scatter_DD.Dispose()

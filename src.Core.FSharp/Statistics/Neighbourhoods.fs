/// What a distance of distributions mixes, taken apart: are the generated pictures like real ones, and do they cover them? By balls
/// about samples that reach to their k-th nearest neighbour in their own set.
///
///   N, M samples · D width of a feature
namespace Hybrid

open System
open TorchSharp

/// Shares of samples that lie in the other set's balls. All in [0, 1] but density.
type NeighbourShares =
    {
        /// Generated samples in the ball of some real one: are they like real ones (Kynkäänniemi et al. 2019)?
        Precision: float
        /// Real samples in the ball of some generated one: are they covered?
        Recall: float
        /// Balls of real samples that a generated one lies in, in the mean, divided by k (Naeem et al. 2020): precision that an outlier
        /// among the real ones cannot raise. 1 is expected of the same distribution.
        Density: float
        /// Real samples whose ball holds a generated one: recall that outliers among the generated ones cannot raise.
        Coverage: float
        /// k
        Neighbours: int
    }

/// Precision, recall, density and coverage.
module Neighbourhoods =

    /// Squared distances [N, M]. What rounding leaves of a distance of 0 is 0, so equal samples lie in balls of radius 0.
    let private distances (x_ND: torch.Tensor) (y_MD: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let square (z: torch.Tensor) = (z * z).sum 1L
        let lengths_NM = (square x_ND).unsqueeze(1L).plus((square y_MD).unsqueeze 0L)
        let raw_NM = lengths_NM - x_ND.mm(y_MD.t ()).mul(Scalars.Of 2.0)
        let border_NM = lengths_NM.mul (Scalars.Of 1e-13)
        (raw_NM * (raw_NM.gt border_NM).``to`` torch.float64).MoveToOuterDisposeScope()

    /// The squared distance of each sample to its k-th nearest other, and what rounding may add: a copy of that other, in the other
    /// set, lies on the border exactly and must be found there.
    let private radii (report: int64 -> unit) (neighbours: int) (x_ND: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let radii_N = torch.empty ([| x_ND.shape[0] |], dtype = torch.float64, device = x_ND.device)

        Features.blocks x_ND (fun first x ->
            let mutable nearest: torch.Tensor option = None

            Features.blocks x_ND (fun _ other ->
                let all =
                    match nearest with
                    | Some before -> torch.cat ([| before; distances x other |], 1L)
                    | None -> distances x other

                // A sample is its own nearest: one more than k, and the largest of them.
                let count = min (int64 neighbours + 1L) all.shape[1]
                let struct (values, _) = all.topk (int count, 1, largest = false, sorted = true)
                let kept = values.DetachFromDisposeScope()
                nearest |> Option.iter _.Dispose()
                nearest <- Some kept)

            match nearest with
            | Some kept ->
                let slack = (x * x).sum(1L).mul(Scalars.Of 1e-12)
                let border = kept.select(1L, int64 neighbours).mul(Scalars.Of(1.0 + 1e-10))
                radii_N.narrow(0L, first, x.shape[0]).copy_(border.plus slack) |> ignore
                kept.Dispose()
            | None -> ()

            report x.shape[0])

        radii_N.MoveToOuterDisposeScope()

    /// The four shares of features [N, D] and [M, D] with balls to the k-th nearest other, in double precision, a block of pairs at a
    /// time. Balls hold their border. `report` is told rows as they are done, N + 2 M in all.
    /// Errors: InputException (`Features.require`, or a set of no more than k samples).
    let measure (report: int64 -> unit) (neighbours: int) (real_ND: torch.Tensor) (generated_MD: torch.Tensor) : NeighbourShares =
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero neighbours
        Features.require "real" real_ND
        Features.require "generated" generated_MD
        Features.requireAlike real_ND generated_MD

        for name, features in [ "real", real_ND; "generated", generated_MD ] do
            if features.shape[0] <= int64 neighbours then
                raise (
                    InputException
                        $"{name} holds {features.shape[0]} samples; with {neighbours} neighbours there must be {neighbours + 1} at least."
                )

        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let n, m = real_ND.shape[0], generated_MD.shape[0]
        let radiiReal_N, radiiGenerated_M = radii report neighbours real_ND, radii report neighbours generated_MD
        let flags (count: int64) = torch.zeros ([| count |], dtype = torch.float64, device = real_ND.device)
        let recalled_N, covered_N = flags n, flags n
        let mutable precise, inside = 0.0, 0.0

        let any (matrix: torch.Tensor) (axis: int64) = matrix.amax ([| axis |])

        Features.blocks generated_MD (fun firstG g ->
            let isPrecise = flags g.shape[0]

            Features.blocks real_ND (fun firstR r ->
                let squared = distances g r
                let inReal = squared.le(radiiReal_N.narrow(0L, firstR, r.shape[0]).unsqueeze 0L).``to`` torch.float64
                let inGenerated = squared.le(radiiGenerated_M.narrow(0L, firstG, g.shape[0]).unsqueeze 1L).``to`` torch.float64
                isPrecise.copy_ (isPrecise.maximum (any inReal 1L)) |> ignore
                inside <- inside + Features.number (inReal.sum ())

                for kept, found in [ covered_N, inReal; recalled_N, inGenerated ] do
                    let part = kept.narrow (0L, firstR, r.shape[0])
                    part.copy_ (part.maximum (any found 0L)) |> ignore)

            precise <- precise + Features.number (isPrecise.sum ())
            report g.shape[0])

        {
            Precision = precise / float m
            Recall = Features.number (recalled_N.mean ())
            Density = inside / (float neighbours * float m)
            Coverage = Features.number (covered_N.mean ())
            Neighbours = neighbours
        }

/// The Fréchet distance of two sets of features, FID where the features are those of Inception (Heusel et al. 2017):
/// |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), with covariances that divide by n − 1.
///
///   N samples · D width of a feature · R rank of a covariance
namespace Hybrid

open System
open TorchSharp

/// A Fréchet distance and its parts: Distance = Means + Covariances.
type FrechetDistance =
    {
        /// Squared units of the features; 0 for equal moments
        Distance: float
        /// |μ₁ − μ₂|²
        Means: float
        /// tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)
        Covariances: float
        /// Ranks of Σ₁ and Σ₂: below the width, where there are too few samples or features that say the same.
        Ranks: struct (int64 * int64)
    }

/// The Fréchet distance of Gaussians.
module Frechet =

    /// Samples from which FID is commonly believed; below 3,000 its bias is larger than most differences between models.
    let fewSamples = 3000L

    // L [D, R] with L Lᵀ = Σ. Eigenvalues that rounding cannot tell from 0 are 0, so a singular covariance keeps its exact rank.
    let private factor (covariance_DD: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let struct (values, vectors) = torch.linalg.eigh covariance_DD
        let found = Features.numbers values
        let largest = Array.fold max 0.0 found
        let border = float found.Length * 2.220446049250313e-16 * largest
        let rank = found |> Seq.filter (fun value -> value > border) |> Seq.length |> int64
        // Ascending: the last ones are the largest.
        let kept_R = values.narrow (0L, values.shape[0] - rank, rank)
        let vectors_DR = vectors.narrow (1L, values.shape[0] - rank, rank)
        (vectors_DR * kept_R.sqrt ()).MoveToOuterDisposeScope()

    let private trace (matrix: torch.Tensor) = Features.number (matrix.diagonal().sum())

    let private assemble
        (mean1_D: torch.Tensor)
        (covariance1_DD: torch.Tensor)
        (mean2_D: torch.Tensor)
        (covariance2_DD: torch.Tensor)
        (ranks: struct (int64 * int64))
        (root: float)
        : FrechetDistance =
        let difference = mean1_D - mean2_D
        let means = Features.number (difference.dot difference)
        let covariances = trace covariance1_DD + trace covariance2_DD - 2.0 * root

        { Distance = means + covariances; Means = means; Covariances = covariances; Ranks = ranks }

    /// The distance of two Gaussians given by means [D] and covariances [D, D], float64. Exact for singular covariances: with
    /// Σᵢ = LᵢLᵢᵀ, tr (Σ₁Σ₂)^½ is the sum of the singular values of L₁ᵀL₂, since (L₁ᵀL₂)(L₁ᵀL₂)ᵀ has the eigenvalues of Σ₁Σ₂
    /// that are not 0. No square root of a matrix that is not symmetric is needed, no imaginary part can arise, and nothing is
    /// added to the diagonals.
    /// Errors: ShapeException.
    let ofGaussians
        (mean1_D: torch.Tensor)
        (covariance1_DD: torch.Tensor)
        (mean2_D: torch.Tensor)
        (covariance2_DD: torch.Tensor)
        : FrechetDistance =
        Shape.require "mean" [ mean1_D.shape[0] ] mean2_D
        Shape.require "covariance" [ mean1_D.shape[0]; mean1_D.shape[0] ] covariance1_DD
        Shape.require "covariance" [ mean1_D.shape[0]; mean1_D.shape[0] ] covariance2_DD
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let left_DR, right_DR = factor covariance1_DD, factor covariance2_DD

        let root =
            if left_DR.shape[1] = 0L || right_DR.shape[1] = 0L then
                0.0
            else
                Features.number (torch.linalg.svdvals(left_DR.t().mm right_DR).sum())

        assemble mean1_D covariance1_DD mean2_D covariance2_DD (struct (left_DR.shape[1], right_DR.shape[1])) root

    /// The distance of two sums of features. Errors: InputException for fewer than two samples or widths that differ.
    let distance (real: FeatureMoments) (generated: FeatureMoments) : FrechetDistance =
        use _ = torch.NewDisposeScope()
        Features.requireAlike (real.Mean.unsqueeze 0L) (generated.Mean.unsqueeze 0L)
        ofGaussians real.Mean (real.Covariance()) generated.Mean (generated.Covariance())

    /// The distance of features [N, D] and [M, D]. Errors: InputException (`Features.require`).
    let ofFeatures (real_ND: torch.Tensor) (generated_MD: torch.Tensor) : FrechetDistance =
        Features.require "real" real_ND
        Features.require "generated" generated_MD
        Features.requireAlike real_ND generated_MD
        use real = new FeatureMoments(real_ND.shape[1])
        use generated = new FeatureMoments(generated_MD.shape[1])
        real.Add real_ND
        generated.Add generated_MD
        distance real generated

    /// The gradients of the distance by Σ₁ and by Σ₂, I − T₁ and I − T₂, where T₂ = Σ₁^½ (Σ₁^½Σ₂Σ₁^½)^−½ Σ₁^½ carries the second
    /// Gaussian onto the first (and T₁ the other way), on the support of the covariances; and tr (Σ₁Σ₂)^½. Both have Lᵢ [D, Rᵢ].
    let private gradients (left_DR: torch.Tensor) (right_DR: torch.Tensor) : struct (torch.Tensor * torch.Tensor * float) =
        use scope = torch.NewDisposeScope()
        let eye = torch.eye (left_DR.shape[0], dtype = torch.float64)

        if left_DR.shape[1] = 0L || right_DR.shape[1] = 0L then
            struct ((eye.clone ()).MoveToOuterDisposeScope(), (eye.clone ()).MoveToOuterDisposeScope(), 0.0)
        else
            let struct (u, s, vh) = torch.linalg.svd (left_DR.t().mm right_DR, fullMatrices = false)
            let values = Features.numbers s
            let border = 1e-10 * Array.max values
            let rank = values |> Seq.filter (fun value -> value > border) |> Seq.length |> int64
            let inverse_R = s.narrow(0L, 0L, rank).reciprocal()

            let carried (factor_DR: torch.Tensor) (vectors: torch.Tensor) =
                let turned = factor_DR.mm (vectors.narrow (1L, 0L, rank))
                (eye - (turned * inverse_R).mm(turned.t ())).MoveToOuterDisposeScope()

            struct (carried right_DR (vh.t ()), carried left_DR u, Array.sum values)

    /// The variance of one side's part of the distance: each sample's weight is 2 (μ − μ')·(x − μ) + (x − μ)ᵀ G (x − μ) with the
    /// gradient G by that side's covariance.
    let private variance (features: torch.Tensor) (own: FeatureMoments) (other: FeatureMoments) (gradient: torch.Tensor) : float =
        use _ = torch.NewDisposeScope()
        let weights = ResizeArray()
        let mean = own.Mean.``to`` features.device
        let move = (own.Mean - other.Mean).mul(Scalars.Of 2.0).``to`` features.device
        let gradient = gradient.``to`` features.device

        Features.blocks features (fun _ block ->
            let centred = block - mean
            let squares = (centred.mm gradient * centred).sum 1L
            weights.AddRange(Features.numbers (squares.plus (centred.mv move))))

        Statistics.deviation (weights.ToArray()) ** 2.0 / float weights.Count

    /// The distance of features [N, D] and [M, D] with its standard error to first order (the delta method): what it would scatter if
    /// both sets were drawn anew, beside its bias. The error is NaN where a set has no more samples than dimensions, since the distance
    /// then has no derivative. Errors: InputException (`Features.require`).
    let withError (real_ND: torch.Tensor) (generated_MD: torch.Tensor) : struct (FrechetDistance * float) =
        Features.require "real" real_ND
        Features.require "generated" generated_MD
        Features.requireAlike real_ND generated_MD

        if min real_ND.shape[0] generated_MD.shape[0] <= real_ND.shape[1] then
            struct (ofFeatures real_ND generated_MD, nan)
        else
            use _ = torch.NewDisposeScope()
            use _ = torch.no_grad ()
            use real = new FeatureMoments(real_ND.shape[1])
            use generated = new FeatureMoments(generated_MD.shape[1])
            real.Add real_ND
            generated.Add generated_MD
            let covariance1, covariance2 = real.Covariance(), generated.Covariance()
            let left_DR, right_DR = factor covariance1, factor covariance2
            let struct (gradient1, gradient2, root) = gradients left_DR right_DR
            let ranks = struct (left_DR.shape[1], right_DR.shape[1])
            let found = assemble real.Mean covariance1 generated.Mean covariance2 ranks root
            let squared = variance real_ND real generated gradient1 + variance generated_MD generated real gradient2
            struct (found, sqrt squared)

    /// Shares of the samples that `extrapolate` measures with.
    let private shares = [ 1.0; 0.8; 0.6; 0.5; 0.4 ]

    /// The distance that infinitely many samples would give (FID∞, Chong & Forsyth 2020): distances of random parts of both sets, a
    /// share f of each, are nearly linear in 1/f, and the line is taken to 1/f = 0. Gives that and the distances, largest share
    /// first; none where 40 % of the smaller set are no more samples than dimensions. Errors: InputException (`Features.require`).
    let extrapolate
        (stream: Random.Stream)
        (real_ND: torch.Tensor)
        (generated_MD: torch.Tensor)
        : (float * (float * float)[]) option =
        Features.require "real" real_ND
        Features.require "generated" generated_MD
        Features.requireAlike real_ND generated_MD
        let fewest = min real_ND.shape[0] generated_MD.shape[0]

        if int64 (List.min shares * float fewest) <= real_ND.shape[1] then
            None
        else
            use _ = torch.NewDisposeScope()

            let part (name: string) (share: float) (features: torch.Tensor) =
                let count = features.shape[0]
                let own = stream |> Random.named name |> Random.numbered (int64 (share * 1000.0))
                let places = Array.init (int (Math.Round(share * float count))) (fun i -> Random.permuted count own (int64 i))
                features.index_select (0L, (Host.int64s [ places.LongLength ] places).``to`` features.device)

            let points =
                [|
                    for share in shares do
                        use _ = torch.NewDisposeScope()
                        share, (ofFeatures (part "real" share real_ND) (part "generated" share generated_MD)).Distance
                |]

            let x = points |> Array.map (fun (share, _) -> 1.0 / share)
            let y = Array.map snd points
            let meanX, meanY = Array.average x, Array.average y

            let slope =
                Array.fold2 (fun sum x y -> sum + (x - meanX) * (y - meanY)) 0.0 x y
                / Array.sumBy (fun x -> (x - meanX) ** 2.0) x

            Some(meanY - slope * meanX, points)

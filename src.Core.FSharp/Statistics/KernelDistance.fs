/// The kernel distance of two sets of features, KID where the features are those of Inception (Bińkowski et al. 2018): the squared
/// maximum mean discrepancy under the kernel k(x, y) = (x·y/D + 1)³. Its estimate has no bias, so few samples widen it and do not
/// shift it.
///
///   N, M samples · D width of a feature
namespace Hybrid

open System
open TorchSharp

/// A kernel distance over all samples.
type KernelEstimate =
    {
        /// Unbiased, so it may fall below 0
        Distance: float
        /// The jackknife's standard error: each sample left out once, both sets.
        Error: float
    }

/// The mean of kernel distances over random subsets, as clean-fid and others report it.
type KernelSubsets =
    {
        /// Over the subsets
        Mean: float
        /// The standard deviation between subsets (n − 1): what one subset scatters, not what the mean does.
        Deviation: float
        /// How many were drawn
        Subsets: int
        /// Samples of each set in a subset
        Size: int64
    }

/// Kernel distances.
module KernelDistance =

    let private kernel (x_ND: torch.Tensor) (y_MD: torch.Tensor) =
        use scope = torch.NewDisposeScope()
        let base_NM = x_ND.mm(y_MD.t ()).div(Scalars.Of(float x_ND.shape[1])).plus 1.0
        (base_NM * base_NM * base_NM).MoveToOuterDisposeScope()

    let private add (target: float[]) (first: int64) (values: float[]) =
        for i in 0 .. values.Length - 1 do
            target[int first + i] <- target[int first + i] + values[i]

    /// Σⱼ k(xᵢ, yⱼ) for each i, and for each j the sum over i.
    let private across (report: int64 -> unit) (x_ND: torch.Tensor) (y_MD: torch.Tensor) : struct (float[] * float[]) =
        let rows = Array.zeroCreate<float>(int x_ND.shape[0])
        let columns = Array.zeroCreate<float>(int y_MD.shape[0])

        Features.blocks x_ND (fun firstRow x ->
            Features.blocks y_MD (fun firstColumn y ->
                let k = kernel x y
                add rows firstRow (Features.numbers (k.sum 1L))
                add columns firstColumn (Features.numbers (k.sum 0L)))

            report x.shape[0])

        struct (rows, columns)

    /// Σⱼ k(xᵢ, xⱼ) for each i, j = i included. Each pair of blocks is computed once, since k(x, y) = k(y, x).
    let private among (report: int64 -> unit) (x_ND: torch.Tensor) : float[] =
        let sums = Array.zeroCreate<float>(int x_ND.shape[0])

        Features.blocks x_ND (fun firstRow x ->
            let rest = x_ND.narrow (0L, firstRow, x_ND.shape[0] - firstRow)

            Features.blocks rest (fun further y ->
                let k = kernel x y
                add sums firstRow (Features.numbers (k.sum 1L))

                if further > 0L then
                    add sums (firstRow + further) (Features.numbers (k.sum 0L)))

            report x.shape[0])

        sums

    let private diagonal (x_ND: torch.Tensor) : float[] =
        let values = ResizeArray()

        Features.blocks x_ND (fun _ x ->
            let own = (x * x).sum(1L).div(Scalars.Of(float x.shape[1])).plus 1.0
            values.AddRange(Features.numbers (own * own * own)))

        values.ToArray()

    /// The variance of an estimate from its values with one of n samples left out.
    let private jackknife (left: float[]) =
        let n = float left.Length
        let mean = Array.average left
        (n - 1.0) / n * Array.sumBy (fun x -> (x - mean) * (x - mean)) left

    /// The unbiased estimate over all pairs of samples: Σ_{i≠j} k(xᵢ, xⱼ)/(n(n − 1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(m(m − 1)) − 2 Σ k(xᵢ, yⱼ)/(nm),
    /// in double precision, a block of pairs at a time. `report` is told rows as they are done, 2 N + M in all. The error needs three
    /// samples of each. Errors: InputException (`Features.require`).
    let unbiased (report: int64 -> unit) (x_ND: torch.Tensor) (y_MD: torch.Tensor) : KernelEstimate =
        Features.require "real" x_ND
        Features.require "generated" y_MD
        Features.requireAlike x_ND y_MD
        use _ = torch.no_grad ()
        let n, m = float x_ND.shape[0], float y_MD.shape[0]

        // Sums over the others of the same set, and over all of the other set.
        let within (features: torch.Tensor) = Array.map2 (-) (among report features) (diagonal features)

        let own1, own2 = within x_ND, within y_MD
        let struct (across1, across2) = across report x_ND y_MD
        let s1, s2, cross = Array.sum own1, Array.sum own2, Array.sum across1

        let estimate s1 n s2 m cross = s1 / (n * (n - 1.0)) + s2 / (m * (m - 1.0)) - 2.0 * cross / (n * m)

        let without1 =
            Array.map2 (fun own across -> estimate (s1 - 2.0 * own) (n - 1.0) s2 m (cross - across)) own1 across1

        let without2 =
            Array.map2 (fun own across -> estimate s1 n (s2 - 2.0 * own) (m - 1.0) (cross - across)) own2 across2

        {
            Distance = estimate s1 n s2 m cross
            Error = if min n m < 3.0 then nan else sqrt (jackknife without1 + jackknife without2)
        }

    /// The first `size` places of a random order of `count` things.
    let private choose (count: int64) (size: int64) (stream: Random.Stream) =
        Host.int64s [ size ] (Array.init (int size) (fun i -> Random.permuted count stream (int64 i)))

    /// The unbiased estimate over random subsets without repetition, of `size` samples of each set or as many as there are, each
    /// subset drawn anew. `report` is told how many are done. Errors: InputException (`Features.require`), ArgumentOutOfRangeException for no subsets.
    let subsets
        (report: int -> unit)
        (stream: Random.Stream)
        (count: int)
        (size: int64)
        (x_ND: torch.Tensor)
        (y_MD: torch.Tensor)
        : KernelSubsets =
        Features.require "real" x_ND
        Features.require "generated" y_MD
        Features.requireAlike x_ND y_MD
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero count
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 2L)
        use _ = torch.no_grad ()
        let size = min size (min x_ND.shape[0] y_MD.shape[0])

        let subset index =
            use _ = torch.NewDisposeScope()
            let own = Random.numbered (int64 index) stream

            let take (name: string) (features: torch.Tensor) =
                let places = (choose features.shape[0] size (Random.named name own)).``to`` features.device
                features.index_select(0L, places).``to`` torch.float64

            let x, y = take "real" x_ND, take "generated" y_MD
            let total (k: torch.Tensor) = Features.number (k.sum ())

            let others (z: torch.Tensor) =
                let k = kernel z z
                (total k - total (k.diagonal ())) / (float size * float (size - 1L))

            let found = others x + others y - 2.0 * total (kernel x y) / (float size * float size)
            report (index + 1)
            found

        let values = Array.init count subset

        {
            Mean = Statistics.mean values
            Deviation = Statistics.deviation values
            Subsets = count
            Size = size
        }

namespace Hybrid

open TorchSharp

/// The codebook of a vector quantiser: vectors ↔ codes, and the moving averages that train it.
/// Axes: N vectors · K codes · C width of a code · B pictures · H, W grid.
module Codebook =

    /// Rows of the distance matrix made at a time: its elements stay below this (16 MiB of float32).
    let private distanceElements = 1L <<< 22

    /// Bytes that finding codes takes at the most for codebooks of up to a million codes: two such matrices.
    let workingBytes = 2L * 4L * distanceElements

    /// The nearest code of every vector, by |z|² + |e|² − 2 z·e in float32; the first of equals.
    /// codebook_KC: [K, C]; vectors_NC: [N, C], of any floating type. Returns int64 [N].
    /// Memory: at most 16 MiB beside the result, or one row of K distances where that is more.
    /// Errors: ShapeException when the shapes do not fit.
    let nearest (codebook_KC: torch.Tensor) (vectors_NC: torch.Tensor) : torch.Tensor =
        Shape.require "codebook" [ -1L; -1L ] codebook_KC
        Shape.require "vectors" [ -1L; codebook_KC.shape[1] ] vectors_NC
        use scope = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let codebook_KC = codebook_KC.detach().``to`` torch.float32
        let vectors_NC = vectors_NC.detach().``to`` torch.float32
        let codeNorms_K = (codebook_KC * codebook_KC).sum 1L
        let codebook_CK = codebook_KC.t ()
        let rows = vectors_NC.shape[0]
        let chunk = max 1L (distanceElements / max 1L codebook_KC.shape[0])

        let codes =
            [|
                for start in 0L .. chunk .. rows - 1L do
                    use inner = torch.NewDisposeScope()
                    let z_nC = vectors_NC.narrow (0L, start, min chunk (rows - start))
                    let norms_n1 = (z_nC * z_nC).sum(1L, true)
                    let distances_nK = norms_n1.plus(codeNorms_K).sub_(z_nC.mm(codebook_CK).mul_(Scalars.Of(2.0)))
                    inner.MoveToOuter(distances_nK.argmin 1L)
            |]

        let result =
            if codes.Length = 0 then
                torch.zeros ([| 0L |], dtype = torch.int64, device = vectors_NC.device)
            else
                torch.cat (codes, 0L)

        scope.MoveToOuter result

    /// A map of vectors as rows: [B, C, H, W] -> [B·H·W, C], pictures first, then rows, then columns.
    let rows (map_BCHW: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let width = map_BCHW.shape[1]
        scope.MoveToOuter(map_BCHW.permute(0L, 2L, 3L, 1L).reshape(-1L, width))

    /// The codes of a map of vectors. codebook_KC: [K, C]; map_BCHW: [B, C, H, W]. Returns int64 [B, H, W].
    /// Errors: ShapeException when the shapes do not fit.
    let assign (codebook_KC: torch.Tensor) (map_BCHW: torch.Tensor) : torch.Tensor =
        Shape.require "codebook" [ -1L; -1L ] codebook_KC
        Shape.require "map" [ -1L; codebook_KC.shape[1]; -1L; -1L ] map_BCHW
        use scope = torch.NewDisposeScope()
        let shape = map_BCHW.shape
        let codes_N = nearest codebook_KC (rows map_BCHW)
        scope.MoveToOuter(codes_N.view (shape[0], shape[2], shape[3]))

    /// The vectors of codes. codebook_KC: [K, C]; codes_BHW: int64 [B, H, W], each in [0, K). Returns [B, C, H, W].
    /// Errors: ShapeException when the shapes or the type do not fit. A code outside [0, K) is torch's own error.
    let lookup (codebook_KC: torch.Tensor) (codes_BHW: torch.Tensor) : torch.Tensor =
        Shape.require "codebook" [ -1L; -1L ] codebook_KC
        Shape.require "codes" [ -1L; -1L; -1L ] codes_BHW
        Shape.requireType "codes" torch.ScalarType.Int64 codes_BHW
        use scope = torch.NewDisposeScope()
        let shape = codes_BHW.shape
        let vectors_NC = codebook_KC.index_select (0L, codes_BHW.reshape -1L)

        vectors_NC.view(shape[0], shape[1], shape[2], codebook_KC.shape[1]).permute(0L, 3L, 1L, 2L).contiguous()
        |> scope.MoveToOuter

    /// Vectors z, quantised so that the gradient of what is made of them goes straight through to z. codebook_KC: [K, C];
    /// z_BChw: [B, C, h, w]. Returns the vectors q of the nearest codes, with the graph of the codebook; z + (q − z) without the
    /// gradient of the difference; and the codes, int64 [B, h, w].
    let quantise (codebook_KC: torch.Tensor) (z_BChw: torch.Tensor) : torch.Tensor * torch.Tensor * torch.Tensor =
        let codes_Bhw = assign codebook_KC z_BChw
        let quantised_BChw = lookup codebook_KC codes_Bhw
        let straight_BChw = z_BChw.plus ((quantised_BChw - z_BChw).detach())
        quantised_BChw, straight_BChw, codes_Bhw

    /// What moving averages know of a codebook: its vectors [K, C], how many vectors a step assigns to each code [K],
    /// and their sum [K, C]. All float32, changed in place by `update`.
    [<NoEquality; NoComparison>]
    type State =
        {
            /// [K, C], what codes stand for
            Vectors: torch.Tensor
            /// [K], vectors that a step assigns to each code, a moving average
            Counts: torch.Tensor
            /// [K, C], sum of those vectors, a moving average
            Sums: torch.Tensor
        }

    /// How a codebook learns.
    type Learning =
        {
            /// The share of the old averages that a step keeps, in [0, 1).
            Decay: float
            /// A code whose average count falls below this share of an even share is put on a vector of the batch.
            Revival: float
            /// Laplace's smoothing: this much is added to every count before a sum is divided by it, and all counts are
            /// scaled so that their total stays; 0 for none.
            Smoothing: float
        }

    /// The parameters that hold a codebook's state, by their names under a prefix: `.weight`, `.count` and `.sum`.
    let parameters (prefix: string) (codes: int64) (width: int64) : ParameterSpec list =
        [
            { Name = prefix + ".weight"; Shape = [ codes; width ]; Init = Zeros }
            { Name = prefix + ".count"; Shape = [ codes ]; Init = Zeros }
            { Name = prefix + ".sum"; Shape = [ codes; width ]; Init = Zeros }
        ]

    /// The state under a prefix of the weights.
    let state (prefix: string) (weights: Weights) : State =
        {
            Vectors = weights (prefix + ".weight")
            Counts = weights (prefix + ".count")
            Sums = weights (prefix + ".sum")
        }

    /// A vector of the batch for every code, [K, C]: a function of (stream, step).
    let private drawn (stream: Random.Stream) (step: int64) (codes: int64) (vectors_NC: torch.Tensor) =
        let rows, draw = int vectors_NC.shape[0], Random.numbered step stream
        let drawn = Array.init (int codes) (fun code -> int64 (Random.below rows draw (int64 code)))
        let drawn_K = torch.tensor (drawn, dtype = torch.int64, device = vectors_NC.device)
        vectors_NC.index_select (0L, drawn_K)

    /// Adds a step's assignments to the average counts; returns the share that a step brings.
    let private count (learning: Learning) (counts_K: torch.Tensor) (codes_N: torch.Tensor) =
        let taken = Scalars.Of(1.0 - learning.Decay)
        let weight_N = torch.full ([| codes_N.shape[0] |], taken, dtype = torch.float32, device = codes_N.device)
        counts_K.mul_(Scalars.Of(learning.Decay)).index_add_(0L, codes_N, weight_N, Scalars.Of(1.0)) |> ignore
        taken

    /// Moves a codebook, in place, towards the vectors assigned to it (exponential moving averages of counts and sums), and
    /// puts codes that are hardly used on vectors drawn from the batch; a state of zeros is so filled by its first step.
    /// vectors_NC: [N, C], N > 0; codes_N: int64 [N], as `nearest` gives them; the draw is a function of (stream, step).
    /// Nothing is read back from the device. Errors: ShapeException when the shapes do not fit.
    let update
        (learning: Learning)
        (stream: Random.Stream)
        (step: int64)
        (state: State)
        (vectors_NC: torch.Tensor)
        (codes_N: torch.Tensor)
        : unit =
        let codes, width = state.Vectors.shape[0], state.Vectors.shape[1]
        Shape.require "vectors" [ -1L; width ] vectors_NC
        Shape.require "codes" [ vectors_NC.shape[0] ] codes_N
        Shape.require "counts" [ codes ] state.Counts
        Shape.require "sums" [ codes; width ] state.Sums
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let vectors_NC = vectors_NC.detach().``to`` torch.float32
        let taken = count learning state.Counts codes_N
        state.Sums.mul_(Scalars.Of(learning.Decay)).index_add_(0L, codes_N, vectors_NC, taken) |> ignore

        let evenShare = float vectors_NC.shape[0] / float codes
        let candidates_KC = drawn stream step codes vectors_NC
        let dead_K = state.Counts.lt (Scalars.Of(learning.Revival * evenShare))
        let dead_K1 = dead_K.unsqueeze 1L
        // A revived code starts with a quarter of an even share: it has time to be used before it counts as dead again.
        let start = 0.25 * evenShare
        let counts_K = torch.where (dead_K, torch.full_like (state.Counts, Scalars.Of(start)), state.Counts)
        let sums_KC = torch.where (dead_K1, candidates_KC.mul (Scalars.Of(start)), state.Sums)
        state.Counts.copy_ counts_K |> ignore
        state.Sums.copy_ sums_KC |> ignore

        let divisors_K =
            if learning.Smoothing > 0.0 then
                let total = counts_K.sum ()
                counts_K.plus (learning.Smoothing) * total / total.plus (learning.Smoothing * float codes)
            else
                counts_K

        // Smoothing draws rarely used codes towards zero; one that was just revived stands where it was put.
        let moved_KC = sums_KC / divisors_K.unsqueeze(1L).clamp_min(Scalars.Of(1e-12))

        let vectors_KC =
            if learning.Smoothing > 0.0 then
                torch.where (dead_K1, candidates_KC, moved_KC)
            else
                moved_KC

        state.Vectors.copy_ vectors_KC |> ignore

    /// The same for a codebook that gradients move: only its average counts are kept, and codes that are hardly used are put,
    /// in place, on vectors drawn from the batch. codebook_KC: float32 [K, C]; counts_K: float32 [K].
    /// Errors: ShapeException when the shapes do not fit.
    let revive
        (learning: Learning)
        (stream: Random.Stream)
        (step: int64)
        (codebook_KC: torch.Tensor)
        (counts_K: torch.Tensor)
        (vectors_NC: torch.Tensor)
        (codes_N: torch.Tensor)
        : unit =
        let codes, width = codebook_KC.shape[0], codebook_KC.shape[1]
        Shape.require "vectors" [ -1L; width ] vectors_NC
        Shape.require "codes" [ vectors_NC.shape[0] ] codes_N
        Shape.require "counts" [ codes ] counts_K
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let vectors_NC = vectors_NC.detach().``to`` torch.float32
        count learning counts_K codes_N |> ignore
        let evenShare = float vectors_NC.shape[0] / float codes
        let dead_K = counts_K.lt (Scalars.Of(learning.Revival * evenShare))
        let start = torch.full_like (counts_K, Scalars.Of(0.25 * evenShare))

        codebook_KC.copy_ (torch.where (dead_K.unsqueeze 1L, drawn stream step codes vectors_NC, codebook_KC))
        |> ignore

        counts_K.copy_ (torch.where (dead_K, start, counts_K)) |> ignore

    /// Centres of vectors by Lloyd's algorithm: K of them are drawn (without repetition where there are as many), then as many
    /// rounds of assigning and averaging; a centre without vectors is put on a drawn one.
    /// vectors_NC: [N, C], N > 0. Returns float32 [K, C]. Errors: ShapeException when there is no vector.
    let kMeans (stream: Random.Stream) (rounds: int) (codes: int64) (vectors_NC: torch.Tensor) : torch.Tensor =
        Shape.require "vectors" [ -1L; -1L ] vectors_NC
        let rows, width = vectors_NC.shape[0], vectors_NC.shape[1]

        if rows = 0L then
            raise (ShapeException "vectors is empty; centres need a vector.")

        use scope = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let vectors_NC = vectors_NC.detach().``to`` torch.float32
        let first = Array.init (int codes) (fun code -> Random.permuted rows stream (int64 code % rows))
        let first_K = torch.tensor (first, dtype = torch.int64, device = vectors_NC.device)
        let centres_KC = vectors_NC.index_select (0L, first_K)
        let ones_N = torch.ones ([| rows |], dtype = torch.float32, device = vectors_NC.device)

        for round in 1..rounds do
            use _ = torch.NewDisposeScope()
            let codes_N = nearest centres_KC vectors_NC
            let counts_K = torch.zeros ([| codes |], dtype = torch.float32, device = vectors_NC.device)
            let sums_KC = torch.zeros ([| codes; width |], dtype = torch.float32, device = vectors_NC.device)
            counts_K.index_add_ (0L, codes_N, ones_N, Scalars.Of(1.0)) |> ignore
            sums_KC.index_add_ (0L, codes_N, vectors_NC, Scalars.Of(1.0)) |> ignore
            let means_KC = sums_KC / counts_K.clamp_min(Scalars.Of(1.0)).unsqueeze 1L
            let empty_K1 = counts_K.eq(Scalars.Of(0.0)).unsqueeze 1L
            centres_KC.copy_ (torch.where (empty_K1, drawn stream (int64 round) codes vectors_NC, means_KC)) |> ignore

        scope.MoveToOuter centres_KC

    /// How often each code occurs. codes: int64 of any shape, each in [0, count). Returns int64 array of `count` numbers.
    let histogram (count: int) (codes: torch.Tensor) : int64[] =
        use _ = torch.NewDisposeScope()
        codes.reshape(-1L).cpu().bincount(null, int64 count).data<int64>().ToArray()

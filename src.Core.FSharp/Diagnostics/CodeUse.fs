/// How a codebook is used: by data, by generated pictures, or by a model's own predictions.
namespace Hybrid

open System
open TorchSharp

/// The use of a codebook's codes.
type CodeUse =
    {
        /// Codes that there are
        Codes: int
        /// Codes that occur, or have probability
        Used: int
        /// −Σ p log₂ p of the shares p, in bits; nan where nothing was counted
        Entropy: float
        /// 2^entropy: as many codes used equally often have this entropy
        Perplexity: float
        /// The most frequent code, the first of several; −1 where nothing was counted
        MostFrequent: int
        /// Its share
        MostFrequentShare: float
    }

    /// The share of the codes that occur, in [0, 1]
    member u.Share: float = if u.Codes = 0 then 0.0 else float u.Used / float u.Codes

/// What a model predicts where image codes are due, among the image codes alone. Sums add over batches.
[<CustomEquality; NoComparison>]
type PredictedCodes =
    {
        /// Image targets
        Count: int64
        /// Those whose most probable code is the right one
        Correct: int64
        /// How often each code is the target
        Targets: int64[]
        /// How often each code is the most probable one
        Argmax: int64[]
        /// The probability of each code summed over the targets
        Probability: float[]
    }

    override s.Equals(other: obj | null) : bool =
        match other with
        | :? PredictedCodes as o ->
            s.Count = o.Count
            && s.Correct = o.Correct
            && s.Targets = o.Targets
            && s.Argmax = o.Argmax
            && s.Probability = o.Probability
        | _ -> false

    override s.GetHashCode() : int = hash s.Targets

    /// Sums over both. Errors: ArgumentException when they are of codebooks of another size.
    static member (+)(a: PredictedCodes, b: PredictedCodes) : PredictedCodes =
        if a.Targets.Length <> b.Targets.Length then
            invalidArg (nameof b) $"{a.Targets.Length} codes and {b.Targets.Length} codes do not add."

        {
            Count = a.Count + b.Count
            Correct = a.Correct + b.Correct
            Targets = Array.map2 (+) a.Targets b.Targets
            Argmax = Array.map2 (+) a.Argmax b.Argmax
            Probability = Array.map2 (+) a.Probability b.Probability
        }

/// How image codes are used in data, in drawn pictures and in what a model predicts.
module CodeUse =

    /// How often each of `codes` codes occurs. Errors: InputException for a code outside.
    let counts (codes: int) (sequences: int[] seq) : int64[] =
        let counts = Array.zeroCreate<int64> codes

        for sequence in sequences do
            for code in sequence do
                if uint32 code >= uint32 codes then
                    raise (InputException $"image code {code} is outside the {codes} codes.")

                counts[code] <- counts[code] + 1L

        counts

    let private sharesOf (weights: float[]) : float[] =
        match weights |> Array.tryFind (fun w -> not (w >= 0.0)) with
        | Some bad -> invalidArg (nameof weights) $"{bad} is no share of a codebook's use."
        | None -> ()

        let total = Array.sum weights
        if total > 0.0 then weights |> Array.map (fun w -> w / total) else [||]

    /// The use that shares give, which need not add up to 1. Errors: ArgumentException for a negative one.
    let ofShares (weights: float[]) : CodeUse =
        let shares = sharesOf weights

        if shares.Length = 0 then
            {
                Codes = weights.Length
                Used = 0
                Entropy = nan
                Perplexity = nan
                MostFrequent = -1
                MostFrequentShare = nan
            }
        else
            let entropy = shares |> Array.sumBy (fun p -> if p > 0.0 then -p * Math.Log2 p else 0.0)
            let most = Array.max shares

            {
                Codes = weights.Length
                Used = shares |> Array.sumBy (fun p -> if p > 0.0 then 1 else 0)
                Entropy = entropy
                Perplexity = 2.0 ** entropy
                MostFrequent = Array.IndexOf(shares, most)
                MostFrequentShare = most
            }

    /// The use that counts give.
    let ofCounts (counts: int64[]) : CodeUse = ofShares (Array.map float counts)

    let private both (p: float[]) (q: float[]) : (float[] * float[]) option =
        if p.Length <> q.Length then
            invalidArg (nameof q) $"codebooks of {p.Length} and {q.Length} codes cannot be compared."

        match sharesOf p, sharesOf q with
        | [||], _
        | _, [||] -> None
        | pair -> Some pair

    let private divergence (p: float[]) (q: float[]) : float =
        Array.fold2 (fun sum a b -> if a > 0.0 then sum + a * Math.Log2(a / b) else sum) 0.0 p q

    /// Σ p log₂(p/q) of two codebooks' use, in bits: infinite where q never uses a code that p uses, nan where one has counted
    /// nothing. Neither need add up to 1. Errors: ArgumentException for other lengths or negative shares.
    let kullbackLeibler (p: float[]) (q: float[]) : float =
        match both p q with
        | Some(p, q) -> max 0.0 (divergence p q)
        | None -> nan

    /// Half the sum of the divergences of both from their mean, in bits: 0 for equal use, 1 where no code is shared; nan where one
    /// has counted nothing. Errors: those of `kullbackLeibler`.
    let jensenShannon (p: float[]) (q: float[]) : float =
        match both p q with
        | Some(p, q) ->
            let mean = Array.map2 (fun a b -> (a + b) / 2.0) p q
            Math.Clamp((divergence p mean + divergence q mean) / 2.0, 0.0, 1.0)
        | None -> nan

    /// What a scored batch predicts at its image targets, among the image codes alone.
    let predicted (scored: Scored) : PredictedCodes =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let codes = scored.Vocabulary.ImageCodes
        let image = scored.Kinds.eq(Scalars.Of(int64 (int Kind.Image))).nonzero().squeeze 1L
        let count = image.shape[0]

        if codes = 0 || count = 0L then
            {
                Count = 0L
                Correct = 0L
                Targets = Array.zeroCreate codes
                Argmax = Array.zeroCreate codes
                Probability = Array.zeroCreate codes
            }
        else
            let struct (first, width) = Vocabulary.columns scored.Vocabulary Kind.Image
            let logits = scored.Logits.narrow(1, first, width).index_select(0L, image)
            let targets = scored.Targets.index_select(0L, image).sub(Scalars.Of first)
            let best = logits.argmax 1L
            let tally (ids: torch.Tensor) = ids.bincount(null, minlength = width).cpu().data<int64>().ToArray()

            {
                Count = count
                Correct = best.eq(targets).sum().cpu().data<int64>().[0L]
                Targets = tally targets
                Argmax = tally best
                Probability = logits.softmax(1L).sum(0L, ``type`` = torch.float64).cpu().data<float>().ToArray()
            }

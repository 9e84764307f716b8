/// What attention looks at where image codes are predicted. Axes: see the legend in Shape.fs; S keys, R rows of queries.
namespace Hybrid

open System
open TorchSharp

/// Where the attention of one layer goes, a mean over queries for each head; the four masses of a head add up to 1.
type LayerAttention =
    {
        /// Counted from 0
        Layer: int
        /// Mass on text tokens
        Text: float[]
        /// Mass on marks (and padding) other than the query's own position
        Marks: float[]
        /// Mass on image codes before the query's own position
        Image: float[]
        /// Mass on the query's own position
        Self: float[]
        /// −Σ p log₂ p over the keys, in bits
        Entropy: float[]
        /// Mass on text tokens by row of the picture, [head][row]; nan where a row has no query
        TextByRow: float[][]
    }

    /// Mass on text tokens, the mean over heads.
    member l.MeanText: float = Array.average l.Text

/// Where attention goes from the positions at which image codes are predicted.
type AttentionMasses =
    {
        /// Such positions in all sequences
        Queries: int64
        /// By row of the picture; none where the grid is not known
        QueriesByRow: int64[]
        /// The mass on text tokens of attention that is spread evenly over all keys that a query sees
        EvenText: float
        /// The same by row of the picture; nan where a row has no query
        EvenTextByRow: float[]
        /// Layer by layer, the first at the front
        Layers: LayerAttention[]
    }

/// Measuring where attention goes, layer by layer, in fp32.
module AttentionMass =

    /// softmax(q kᵀ / √C + mask) of the query rows [first, first + R) of q_BHTC against k_BHSC, S = T: [B, H, R, S] fp32, in which a
    /// query sees itself and what is before it, the last `window` of them where it is not 0.
    let probabilitiesOf
        (window: int64)
        (first: int64)
        (rows: int64)
        (q_BHTC: torch.Tensor)
        (k_BHSC: torch.Tensor)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let wide (x: torch.Tensor) = x.``to`` torch.float32
        let keys, c = k_BHSC.shape[2], q_BHTC.shape[3]
        let q = (wide (q_BHTC.narrow (2, first, rows))).mul(Scalars.Of(1.0 / sqrt (float c)))
        let scores = q.matmul ((wide k_BHSC).transpose(2, 3))
        let mask = FusedAttention.mask first rows keys window scores
        scores.plus_(mask).softmax(-1L).MoveToOuterDisposeScope()

    /// The attention probabilities of a layer's attention under `prefix`, of its input x_BTD (after the norm): [B, H, T, T] fp32,
    /// whatever the model's positions, groups, windows, norms and biases. Row t gives what position t sees.
    let probabilities
        (config: ModelConfig)
        (weights: Weights)
        (prefix: string)
        (rotation: Rotation option)
        (x_BTD: torch.Tensor)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let q, k, _ = Layers.queriesKeysValues config weights prefix rotation x_BTD
        (probabilitiesOf (int64 config.Window) 0L x_BTD.shape[1] q k).MoveToOuterDisposeScope()

    // Up to this many probabilities exist at once.
    let private atOnce = 1L <<< 23

    /// Sums over the queries of one sequence, a number for each head: text, marks, earlier image codes, own position, entropy.
    type private Sums(heads: int, rows: int) =
        member val Parts = Array.init 5 (fun _ -> Array.zeroCreate<float> heads)
        member val TextByRow = Array.init heads (fun _ -> Array.zeroCreate<float> rows)

    /// What one sequence asks: its tokens up to the last that counts, and for each the row of the picture that it predicts a code of;
    /// −1 where it predicts none, 0 where the grid is not known.
    [<NoEquality; NoComparison>]
    type private Asked = { Tokens: int64[]; Length: int64; Rows: int[]; Kinds: Kind[] }

    let private ask (vocabulary: Vocabulary) (grid: struct (int * int)) (sequence: int64[]) : Asked =
        let places = LossByPlace.places vocabulary sequence
        let used = max 1 (Sequence.counted vocabulary sequence)

        let row t =
            let target = places[t + 1]

            if target.Kind <> Kind.Image then -1
            elif grid = struct (0, 0) then 0
            else LossByPlace.rowOf grid target.Place

        {
            Tokens = sequence[.. used - 1]
            Length = int64 sequence.Length - 1L
            Rows = Array.init used row
            Kinds = Array.init used (fun t -> places[t].Kind)
        }

    /// Which keys are text, marks and image codes: [S, 3] fp32.
    let private membership (device: torch.Device) (kinds: Kind[]) : torch.Tensor =
        let values = Array.zeroCreate<float32>(3 * kinds.Length)

        kinds
        |> Array.iteri (fun t kind ->
            let group =
                match kind with
                | Kind.Text -> 0
                | Kind.Image -> 2
                | _ -> 1

            values[3 * t + group] <- 1.0f)

        Host.floats [ int64 kinds.Length; 3L ] values |> Host.onto device

    /// The five numbers of each query: probabilities [H, R, S] of query rows from `first` on give [5, H, R].
    let private numbers (members_S3: torch.Tensor) (first: int64) (p_HRS: torch.Tensor) : torch.Tensor =
        let rows = p_HRS.shape[1]
        let own = p_HRS.diagonal (first, 1L, 2L)
        // p log p is 0 where p is 0.
        let entropy = p_HRS.mul(p_HRS.clamp_min(Scalars.Of 1e-30).log2()).sum(-1L).neg()
        // What is left when the own position is taken out.
        let place = torch.arange (first, first + rows, device = p_HRS.device)

        let others =
            p_HRS.scatter (2L, place.view(1L, rows, 1L).expand(p_HRS.shape[0], rows, 1L), torch.zeros_like (own.unsqueeze 2L))

        let groups = others.matmul members_S3
        torch.stack [| groups.select (2L, 0L); groups.select (2L, 1L); groups.select (2L, 2L); own; entropy |]

    let private addLayer
        (config: ModelConfig)
        (weights: Weights)
        (rotation: Rotation option)
        (asked: Asked)
        (members: torch.Tensor)
        (layer: int)
        (sums: Sums)
        (x: torch.Tensor)
        : unit =
        use _ = torch.NewDisposeScope()
        let prefix = $"layers.{layer}"
        let normed = Layers.norm config.Norm config.NormEpsilon weights $"{prefix}.attention_norm" x
        let q, k, _ = Layers.queriesKeysValues config weights $"{prefix}.attention" rotation normed
        let heads, length = int64 config.Heads, x.shape[1]
        let start = int64 (Array.FindIndex(asked.Rows, (fun row -> row >= 0)))
        let stop = 1L + int64 (Array.FindLastIndex(asked.Rows, (fun row -> row >= 0)))
        let step = max 1L (atOnce / (heads * length))

        for first in start..step .. stop - 1L do
            use _ = torch.NewDisposeScope()
            let rows = min step (stop - first)
            let p = (probabilitiesOf (int64 config.Window) first rows q k).squeeze 0L
            let values = (numbers members first p).cpu().contiguous().data<float32>().ToArray()

            for h in 0 .. config.Heads - 1 do
                for r in 0 .. int rows - 1 do
                    let row = asked.Rows[int first + r]

                    if row >= 0 then
                        let value part = float values[(part * config.Heads + h) * int rows + r]

                        for part in 0..4 do
                            sums.Parts[part][h] <- sums.Parts[part][h] + value part

                        if sums.TextByRow[h].Length > 0 then
                            sums.TextByRow[h][row] <- sums.TextByRow[h][row] + value 0

    /// The shares of text among the keys that each position sees.
    let private evenText (window: int) (asked: Asked) : float[] =
        let texts = asked.Kinds |> Array.scan (fun n kind -> if kind = Kind.Text then n + 1 else n) 0

        Array.init asked.Tokens.Length (fun t ->
            let first = if window > 0 then max 0 (t - window + 1) else 0
            float (texts[t + 1] - texts[first]) / float (t + 1 - first))

    /// Where attention goes from the positions at which image codes are predicted, a mean over all such positions of all sequences.
    /// A few sequences are enough. They are worked on one by one and layer by layer, a bounded number of probabilities at a time.
    /// `grid` is the rows and columns of a picture's codes, or (0, 0). Errors: InputException for ids outside the table or a picture of
    /// more codes than the grid has.
    let toText
        (config: ModelConfig)
        (vocabulary: Vocabulary)
        (weights: Weights)
        (grid: struct (int * int))
        (sequences: int64[][])
        : AttentionMasses =
        use _ = torch.inference_mode ()
        let struct (height, _) = grid
        let sums = Array.init config.Layers (fun _ -> Sums(config.Heads, height))
        let byRow, even = Array.zeroCreate<int64> height, Array.zeroCreate<float> height
        let mutable queries, evenAll = 0L, 0.0

        for i in 0 .. sequences.Length - 1 do
            Vocabulary.check vocabulary $"sequence {i}" sequences[i]

            if sequences[i].Length < 2 then
                raise (ShapeException "a sequence needs at least 2 positions.")

            let asked = ask vocabulary grid sequences[i]

            if asked.Rows |> Array.exists (fun row -> row >= 0) then
                evenText config.Window asked
                |> Array.iteri (fun t share ->
                    let row = asked.Rows[t]

                    if row >= 0 then
                        queries <- queries + 1L
                        evenAll <- evenAll + share

                        if height > 0 then
                            byRow[row] <- byRow[row] + 1L
                            even[row] <- even[row] + share)

                use _ = torch.NewDisposeScope()
                let device = (weights "tok_embeddings.weight").device
                let length = asked.Tokens.LongLength
                let tokens = Host.int64s [ 1L; length ] asked.Tokens |> Host.onto device
                let members = membership device asked.Kinds

                // Rotation may depend on the length, and padding that is left out is part of it.
                let rotation = Decoder.rotation config weights 0L asked.Length |> Option.map (Rotary.first length)

                let mutable x = Decoder.embed config weights tokens

                for layer in 0 .. config.Layers - 1 do
                    addLayer config weights rotation asked members layer sums[layer] x

                    if layer < config.Layers - 1 then
                        let next = Decoder.block config weights rotation layer x
                        x.Dispose()
                        x <- next

        let mean (sum: float) = if queries = 0L then nan else sum / float queries

        let rowMeans (values: float[]) = Array.map2 (fun sum count -> if count = 0L then nan else sum / float count) values byRow

        {
            Queries = queries
            QueriesByRow = byRow
            EvenText = mean evenAll
            EvenTextByRow = rowMeans even
            Layers =
                sums
                |> Array.mapi (fun layer sums ->
                    let part i = Array.map mean sums.Parts[i]

                    {
                        Layer = layer
                        Text = part 0
                        Marks = part 1
                        Image = part 2
                        Self = part 3
                        Entropy = part 4
                        TextByRow = Array.map rowMeans sums.TextByRow
                    })
        }

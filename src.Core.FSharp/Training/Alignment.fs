/// Contrastive alignment of image-token embeddings with frozen text embeddings (the paper's section 4, Fig. 7): each picture and
/// each caption is a bag of words, the mean of its tokens' embeddings, and matching pairs are told from the others of a batch as
/// CLIP does (Radford et al. 2021).
module Hybrid.Alignment

open System
open TorchSharp

/// Start of the log scale: ln(1/0.07).
let initialLogScale: float = Math.Log(1.0 / 0.07)

/// The log scale stays within [0, ln 100].
let largestLogScale: float = Math.Log 100.0

/// One step's values, scalars.
[<NoEquality; NoComparison>]
type Contrast =
    {
        /// Mean of both directions' cross-entropies, in nats
        Loss: torch.Tensor
        /// Share of pictures whose own caption is the nearest
        Accuracy: torch.Tensor
    }

/// From the features [n, D] of this process's pairs to those of all processes [N, D], in the order of the processes; the gradient
/// of a row goes back to the process that the row is from. With one process, `id`.
type Gather = torch.Tensor -> torch.Tensor

/// The distinct tokens of each bag, in the order in which they first occur, and how often they do: tokens [T], counts [T], and where
/// each bag begins. Errors: InputException for an empty bag or a token outside the table.
let private distinct (rows: int64) (bags: int[][]) : int64[] * float32[] * int64[] =
    let most = bags |> Array.sumBy Array.length
    let tokens, counts = Array.zeroCreate<int64> most, Array.zeroCreate<float32> most
    let starts = Array.zeroCreate<int64> bags.Length
    // Where a token stands in the list of the bag that saw it last: a table instead of sorting every bag.
    let place, owner = Array.zeroCreate<int>(int rows), Array.create (int rows) -1
    let mutable length = 0

    for i in 0 .. bags.Length - 1 do
        if bags[i].Length = 0 then
            raise (InputException $"pair {i} has no tokens to align.")

        starts[i] <- int64 length

        for token in bags[i] do
            if token < 0 || int64 token >= rows then
                raise (InputException $"token {token} of pair {i} is outside the table of {rows} rows.")

            if owner[token] = i then
                counts[place[token]] <- counts[place[token]] + 1.0f
            else
                owner[token] <- i
                place[token] <- length
                tokens[length] <- int64 token
                counts[length] <- 1.0f
                length <- length + 1

    Array.sub tokens 0 length, Array.sub counts 0 length, starts

/// Mean embedding of each bag, scaled to length 1: [N, D] from a table [R, D]. Each row of the table is read once for each bag that
/// holds it; no histogram [N, R] is made. Errors: InputException for an empty bag or a token outside the table.
let bagOfWords (table_RD: torch.Tensor) (bags: int[][]) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let tokens, counts, starts = distinct table_RD.shape[0] bags
    let onto (tensor: torch.Tensor) = Host.onto table_RD.device tensor
    let counts = (Host.floats [ int64 counts.Length ] counts).``to`` table_RD.dtype

    // The direction of a mean is that of the sum.
    let sums =
        Dispatcher.embeddingBag
            table_RD
            (onto (Host.int64s [ int64 tokens.Length ] tokens))
            (onto (Host.int64s [ int64 starts.Length ] starts))
            (onto counts)

    (torch.nn.functional.normalize (sums, 2.0, 1L, 1e-12)).MoveToOuterDisposeScope()

/// The symmetric contrastive loss of N matching pairs, those of all processes: picture i belongs to text i. `logScale` is a scalar.
let contrast (logScale: torch.Tensor) (pictures_ND: torch.Tensor) (texts_ND: torch.Tensor) : Contrast =
    use scope = torch.NewDisposeScope()
    let n = pictures_ND.shape[0]
    let logits = pictures_ND.matmul(texts_ND.t ()).mul(logScale.exp ())
    let own = torch.arange (Scalars.Of n, dtype = torch.int64, device = logits.device)
    let rows = torch.nn.functional.cross_entropy (logits, own)
    let columns = torch.nn.functional.cross_entropy (logits.t (), own)
    let accuracy = logits.detach().argmax(1L).eq(own).``to``(torch.float32).mean()

    {
        Loss = rows.plus(columns).mul(Scalars.Of(0.5)).MoveToOuterDisposeScope()
        Accuracy = accuracy.MoveToOuterDisposeScope()
    }

/// What alignment trains: the image table [codes, D] and the log scale.
let parameters (codes: int64) (width: int64) : ParameterSpec list =
    [
        {
            Name = "image_embeddings"
            Shape = [ codes; width ]
            Init = TruncatedNormal(1.0 / sqrt (float width))
        }
        { Name = "log_scale"; Shape = [ 1L ]; Init = Zeros }
    ]

/// Puts the log scale at its start.
let initialiseScale (store: ParameterStore) : unit =
    use start = Host.floats [ 1L ] [| float32 initialLogScale |]
    Parameters.set store "log_scale" start

/// One step: contrast before the update, then AdamW without decay, then the clamp. `texts_nD` are the bags of this process's
/// captions, `codes` its pictures. No value is read back to the host. The caller owns the result.
let step
    (gather: Gather)
    (optimizer: OptimizerConfig)
    (learningRate: float)
    (store: ParameterStore)
    (state: OptimizerState)
    (texts_nD: torch.Tensor)
    (codes: int[][])
    : Contrast =
    use scope = torch.NewDisposeScope()
    Step.zero store state
    let pictures = gather (bagOfWords (store.Weights "image_embeddings") codes)
    let value = contrast (store.Weights("log_scale").squeeze()) pictures (gather texts_nD)
    value.Loss.backward ()
    Step.update optimizer learningRate store state |> ignore
    use _ = torch.no_grad ()
    let scale = store.MasterOf "log_scale"
    scale.clamp_ (Scalars.Of(0.0), Scalars.Of(largestLogScale)) |> ignore
    scale.Dispose()

    {
        Loss = value.Loss.detach().MoveToOuterDisposeScope()
        Accuracy = value.Accuracy.MoveToOuterDisposeScope()
    }

/// Rows of a table that are worked on together, so that their products with `others` rows stay around a quarter of a gigabyte.
let private atOnce (others: int64) : int64 = max 1L ((1L <<< 26) / max 1L others)

let private unit (t: torch.Tensor) = torch.nn.functional.normalize (t.``to`` torch.float32, 2.0, 1L, 1e-12)

/// The `count` text rows nearest to each image row by cosine: ids [rows, count] and cosines [rows, count].
let nearest (count: int) (images_RD: torch.Tensor) (texts_VD: torch.Tensor) : torch.Tensor * torch.Tensor =
    use _ = torch.no_grad ()
    use scope = torch.NewDisposeScope()
    let images, texts = unit images_RD, unit texts_VD
    let block = atOnce texts.shape[0]

    let parts =
        [
            for start in 0L .. block .. images.shape[0] - 1L do
                use _ = torch.NewDisposeScope()
                let some = images.narrow (0L, start, min block (images.shape[0] - start))
                let struct (cosines, ids) = some.matmul(texts.t ()).topk count
                ids.MoveToOuterDisposeScope(), cosines.MoveToOuterDisposeScope()
        ]

    let joined pick = torch.cat (parts |> List.map pick |> List.toArray, 0L)
    (joined fst).MoveToOuterDisposeScope(), (joined snd).MoveToOuterDisposeScope()

/// How many candidates are nearer to a query than its own one, and how many are as near, itself among them.
[<Struct>]
type Rank =
    {
        /// Candidates with a larger cosine than the own one
        Nearer: int64
        /// Candidates with the same cosine, the own one among them
        AsNear: int64
    }

/// The chance that a query's own candidate is among the first `count` when those that are as near stand in any order.
let found (count: int) (rank: Rank) : float = Math.Clamp((float count - float rank.Nearer) / float rank.AsNear, 0.0, 1.0)

/// For each row of `queries_ND` the rank of the same row of `candidates_ND` by their inner product.
let ranks (queries_ND: torch.Tensor) (candidates_ND: torch.Tensor) : Rank[] =
    use _ = torch.no_grad ()
    use _ = torch.NewDisposeScope()
    let n = queries_ND.shape[0]
    let block = atOnce candidates_ND.shape[0]
    let host (t: torch.Tensor) = t.cpu().data<int64>().ToArray()

    [|
        for start in 0L .. block .. n - 1L do
            use _ = torch.NewDisposeScope()
            let count = min block (n - start)
            let products = queries_ND.narrow(0L, start, count).matmul(candidates_ND.t ())

            let places =
                torch.arange (Scalars.Of start, Scalars.Of(start + count), dtype = torch.int64, device = products.device)

            let own = products.gather (1L, places.unsqueeze 1L)
            let nearer = host (products.gt(own).sum(1L))
            let same = host (products.eq(own).sum(1L))
            yield! Array.map2 (fun nearer same -> { Nearer = nearer; AsNear = same }) nearer same
    |]

/// Rows [rows, D] that know nothing of a language: normal values of one deviation, whose directions are even. What alignment reaches
/// against them owes nothing to what text embeddings have learnt.
let randomTexts (stream: Random.Stream) (deviation: float) (rows: int) (width: int) : torch.Tensor =
    let values = Array.zeroCreate<float32>(rows * width)

    Threading.Tasks.Parallel.For(
        0,
        rows,
        fun row -> Random.fillTruncatedNormal deviation (Random.numbered (int64 row) stream) (Span(values, row * width, width))
    )
    |> ignore

    Host.floats [ int64 rows; int64 width ] values

/// How strongly two events go together: Dunning's (1993) log-likelihood ratio G² of their table of four, negative where they
/// occur together less often than by chance. Of `total` pairs, `a` have the one, `b` the other and `both` both.
let association (both: float) (a: float) (b: float) (total: float) : float =
    let term observed expected = if observed > 0.0 && expected > 0.0 then observed * Math.Log(observed / expected) else 0.0

    let notA, notB = total - a, total - b

    let sum =
        term both (a * b / total)
        + term (a - both) (a * notB / total)
        + term (b - both) (notA * b / total)
        + term (total - a - b + both) (notA * notB / total)

    (if both * total < a * b then -2.0 else 2.0) * max 0.0 sum

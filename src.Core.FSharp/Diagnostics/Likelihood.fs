/// What a model gives to continuations: the measure behind multiple choice, cloze and language-modelling probes.
module Hybrid.Likelihood

open TorchSharp

/// A continuation after its context, as token ids.
type Item =
    {
        /// What comes before; not scored
        Context: int[]
        /// What is scored; at least one token
        Continuation: int[]
    }

/// A continuation's score.
[<Struct>]
type Score =
    {
        /// Σ log p over the continuation's tokens, in nats
        LogLikelihood: float
        /// Whether each of its tokens is the model's first choice
        Greedy: bool
        /// How many were scored
        Tokens: int
    }

/// Scores one batch of items of any lengths, padded at the end (causal attention never sees the padding).
let private scoreBatch (config: ModelConfig) (rows: int) (weights: Weights) (items: Item[]) : Score[] =
    use _ = torch.inference_mode ()
    use scope = torch.NewDisposeScope()
    let sequences = items |> Array.map (fun item -> Array.append item.Context item.Continuation)
    let length = sequences |> Array.map Array.length |> Array.max

    let padded =
        sequences |> Array.collect (fun s -> Array.append (Array.map int64 s) (Array.zeroCreate (length - s.Length)))

    let device = (weights "tok_embeddings.weight").device
    let tokens = (Host.int64s [ int64 items.Length; int64 length ] padded).``to`` device
    let inputs = tokens.narrow (1, 0L, int64 length - 1L)
    let targets = tokens.narrow (1, 1L, int64 length - 1L)

    // Only the places before a continuation's tokens need logits.
    let places =
        items
        |> Array.mapi (fun i item ->
            let start = i * (length - 1) + item.Context.Length - 1
            Array.init item.Continuation.Length (fun k -> int64 (start + k)))

    let index = (Host.int64s [ -1L ] (Array.concat places)).``to`` device
    let some (x: torch.Tensor) (shape: int64[]) = x.reshape(shape).index_select(0L, index)
    let hidden = some (Decoder.hidden config weights inputs) [| -1L; int64 config.Width |]
    let logits = (Decoder.head config weights rows hidden).``to`` torch.float32
    let targets = some targets [| -1L |]
    let chosen = logits.gather(-1L, targets.unsqueeze -1L).squeeze -1
    let logProbability = (chosen.sub (logits.logsumexp -1L)).cpu().data<float32>().ToArray()
    let first = logits.argmax(-1L).eq(targets).cpu().data<bool>().ToArray()
    let starts = places |> Array.scan (fun at own -> at + own.Length) 0

    items
    |> Array.mapi (fun i item ->
        let own = [| starts[i] .. starts[i + 1] - 1 |]

        {
            LogLikelihood = own |> Array.sumBy (fun place -> float logProbability[place])
            Greedy = own |> Array.forall (fun place -> first[place])
            Tokens = item.Continuation.Length
        })

/// Scores items in batches of `batch`, sorted by length so that little is padded; results in the order given. `rows` is the count
/// of rows with an id. Errors: InputException for an empty context or continuation, or an id outside the table.
let score (config: ModelConfig) (rows: int) (weights: Weights) (batch: int) (items: Item[]) : Score[] =
    for item in items do
        if item.Context.Length = 0 || item.Continuation.Length = 0 then
            raise (InputException "a probe needs a context and a continuation of at least one token each.")

        for id in Seq.append item.Context item.Continuation do
            if id < 0 || id >= rows then
                raise (InputException $"token {id} of a probe is outside the model's {rows} ids.")

    let order =
        [| 0 .. items.Length - 1 |] |> Array.sortBy (fun i -> items[i].Context.Length + items[i].Continuation.Length)

    let scores = Array.zeroCreate items.Length

    for chunk in Array.chunkBySize (max 1 batch) order do
        let results = scoreBatch config rows weights (chunk |> Array.map (fun i -> items[i]))
        Array.iteri2 (fun _ i result -> scores[i] <- result) chunk results

    scores

/// The choice with the highest mean log-likelihood per token; the first on ties.
let best (choices: Score[]) : int =
    let mean (score: Score) = score.LogLikelihood / float score.Tokens

    choices |> Array.indexed |> Array.maxBy (fun (i, score) -> mean score, -i) |> fst

/// Drawing tokens from a model, with cached keys and values. Each draw is a pure function of the seed, the sequence's number and
/// the position, so that neither batching nor caching changes what comes out, up to rounding of the logits.
module Hybrid.Sampler

open TorchSharp

/// How a token is drawn from its distribution.
type Sampling =
    {
        /// Divides the logits; 0 takes the most likely token
        Temperature: float
        /// Only the k most likely tokens
        TopK: int option
        /// Only the smallest set of most likely tokens with this probability
        TopP: float option
        /// Classifier-free guidance: logits become u + g·(c − u); 1 is none
        Guidance: float
        Seed: int64
    }

/// Plain sampling.
let ancestral (seed: int64) : Sampling = { Temperature = 1.0; TopK = None; TopP = None; Guidance = 1.0; Seed = seed }

/// The most likely token at each step.
let greedy: Sampling = { ancestral 0L with Temperature = 0.0 }

/// Restricts logits [B, V] as the sampling says: what is left out becomes −∞.
let restrict (sampling: Sampling) (logits_BV: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let out = Scalars.Of(-infinity)
    let scaled = logits_BV.``to``(torch.float32).div(Scalars.Of(sampling.Temperature))

    let top =
        match sampling.TopK with
        | Some k when int64 k < scaled.shape[1] ->
            // By index, not by value: of equal logits (frequent in bf16) no more than k stay.
            let struct (values, indices) = scaled.topk (k)
            scaled.full_like(out).scatter(1L, indices, values)
        | _ -> scaled

    let nucleus =
        match sampling.TopP with
        | Some p when p < 1.0 ->
            let struct (sorted, order) = top.sort (1L, true)
            let probability = sorted.softmax 1L
            // A token stays when the tokens before it hold less than p; the first stays even where p is 0.
            let beyond = probability.cumsum(1L).sub(probability).ge(Scalars.Of(p))
            beyond.narrow(1, 0L, 1L).zero_() |> ignore
            top.masked_fill (beyond.scatter (1L, order, beyond), out)
        | _ -> top

    nucleus.MoveToOuterDisposeScope()

/// Draws one token of each row of logits [B, V] with uniform values in [0, 1): [B] int64.
let draw (sampling: Sampling) (uniforms: float[]) (logits_BV: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()

    let chosen =
        if sampling.Temperature <= 0.0 then
            logits_BV.argmax 1L
        else
            // Inverse of the cumulative distribution, in double precision so that no token is lost to rounding.
            let cumulative = (restrict sampling logits_BV).``to``(torch.float64).softmax(1L).cumsum 1L

            let threshold = torch.tensor(uniforms, dtype = torch.float64).``to``(logits_BV.device).unsqueeze 1L

            let total = cumulative.narrow (1, cumulative.shape[1] - 1L, 1L)
            cumulative.le(threshold.mul total).sum(1L)

    let chosen = chosen.clamp_max (Scalars.Of(logits_BV.shape[1] - 1L))
    chosen.MoveToOuterDisposeScope()

let private uniforms (sampling: Sampling) (numbers: int64[]) (position: int) =
    let stream = Random.ofSeed sampling.Seed |> Random.named "sampling"
    numbers |> Array.map (fun number -> Random.uniform (Random.numbered number stream) (int64 position))

/// Draws exactly `count` codes for prompts of one length; `unconditional` is the prompt that guidance steers away from.
let private imagesOfOneLength
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (numbers: int64[])
    (prompts: int64[][])
    (unconditional: int64[])
    : int[][] =
    use _ = torch.inference_mode ()
    use outer = torch.NewDisposeScope()
    let device = (weights "tok_embeddings.weight").device
    let b = int64 prompts.Length

    let start (prompts: int64[][]) =
        let length = prompts[0].Length
        let tokens = (Host.int64s [ b; int64 length ] (Array.concat prompts)).``to`` device
        let caches = Decoder.caches config weights b (int64 (length + count))
        Decoder.next config vocabulary.Rows weights caches tokens

    let guided = sampling.Guidance <> 1.0

    let mutable conditional, caches = start prompts

    let mutable free = if guided then Some(start (Array.replicate prompts.Length unconditional)) else None

    let drawn = ResizeArray<torch.Tensor>()
    let struct (first, codes) = Vocabulary.columns vocabulary Kind.Image

    for position in 0 .. count - 1 do
        use scope = torch.NewDisposeScope()
        let own (logits: torch.Tensor) = logits.narrow(1, first, codes).``to`` torch.float32

        let logits =
            match free with
            | None -> own conditional
            | Some(u, _) ->
                let free = own u
                free.plus ((own conditional).sub(free).mul(Scalars.Of(sampling.Guidance)))

        let code = draw sampling (uniforms sampling numbers position) logits
        drawn.Add(code.MoveToOuterDisposeScope())

        if position < count - 1 then
            let token = code.plus(first).unsqueeze 1L
            let keep (logits: torch.Tensor, caches) = logits.MoveToOuterDisposeScope(), caches
            let logits, grown = keep (Decoder.next config vocabulary.Rows weights caches token)
            conditional.Dispose()
            conditional <- logits
            caches <- grown

            match free with
            | Some(u, grown) ->
                let next = keep (Decoder.next config vocabulary.Rows weights grown token)
                u.Dispose()
                free <- Some next
            | None -> ()

    let all = torch.stack(drawn.ToArray(), 1L).cpu().data<int64>().ToArray()
    all |> Array.map int |> Array.chunkBySize count

/// Pictures for captions: exactly `count` codes each, drawn among the image codes only. Errors: InputException for a caption that is
/// longer than fits with the codes in the model's positions, or that holds an id outside the text rows.
let images
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (captions: int[][])
    : int[][] =
    // The last code is drawn but not read.
    let longest = config.Positions - (Sequence.prompt vocabulary [||]).Length - (count - 1)

    for caption in captions do
        if caption.Length > longest then
            raise (
                InputException
                    $"a caption of {caption.Length} tokens does not fit with {count} image codes in the model's {config.Positions} positions; the longest has {max 0 longest}."
            )

        for id in caption do
            if id < 0 || id >= vocabulary.TextRows then
                raise (InputException $"caption token {id} is outside the {vocabulary.TextRows} text rows.")

    let unconditional = Sequence.prompt vocabulary [||]
    let results = Array.zeroCreate captions.Length

    for _, group in captions |> Array.indexed |> Array.groupBy (fun (_, caption) -> caption.Length) do
        let numbers = group |> Array.map (fst >> int64)
        let prompts = group |> Array.map (snd >> Sequence.prompt vocabulary)
        let codes = imagesOfOneLength config vocabulary weights sampling count numbers prompts unconditional
        Array.iter2 (fun (i, _) codes -> results[i] <- codes) group codes

    results

/// Continues one sequence by up to `count` tokens over the whole vocabulary, until `stop` (which is not returned).
/// Errors: InputException for an empty prompt or an id outside the table.
let complete
    (config: ModelConfig)
    (rows: int)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (stop: int option)
    (prompt: int[])
    : int[] =
    if prompt.Length = 0 then
        raise (InputException "a completion needs a prompt of at least one token.")

    for id in prompt do
        if id < 0 || id >= rows then
            raise (InputException $"token {id} of the prompt is outside the model's {rows} ids.")

    use _ = torch.inference_mode ()
    use outer = torch.NewDisposeScope()
    let device = (weights "tok_embeddings.weight").device
    let ids = ResizeArray<int>()
    let mutable tokens = (Host.int64s [ 1L; int64 prompt.Length ] (Array.map int64 prompt)).``to`` device
    let mutable caches = Decoder.caches config weights 1L (int64 (prompt.Length + count))
    let mutable running = count > 0

    while running do
        use scope = torch.NewDisposeScope()
        let logits, grown = Decoder.next config rows weights caches tokens
        let next = draw sampling (uniforms sampling [| 0L |] ids.Count) logits
        let id = int (next.cpu().data<int64>().[0L])
        tokens <- (next.unsqueeze 1L).MoveToOuterDisposeScope()
        caches <- grown

        if stop = Some id then
            running <- false
        else
            ids.Add id
            running <- ids.Count < count

    ids.ToArray()

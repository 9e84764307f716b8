/// Drawing tokens from a model, with cached keys and values. Each draw is a pure function of the seed, the sequence's number and
/// the position, so that neither batching, nor caching, nor reading ahead changes what comes out, up to rounding of the logits.
module Hybrid.Sampler

open System
open System.Threading
open TorchSharp
open Hybrid.Draw

/// What sampling works with. It changes how fast tokens come, and beyond rounding nothing of what they are.
type Means =
    {
        /// Where keys and values stand
        Place: Place
        /// Where at least so many tokens are drawn, weights are copied into the layout that the processor multiplies by fastest
        PackingFrom: int64
        /// Sequences are shared out over this many threads; 1 leaves the threads to each operation
        Workers: int
        /// Bytes of cached keys and values at a time
        Memory: int64
    }

/// Bytes of weights up to which each core has its own sequences: they stay in the caches of the processor, so that reading them once a
/// core costs less than waiting for each other in every operation.
let private shareable = 64L <<< 20

/// Copies of weights above this size would take more memory than their speed is worth.
let private packable = 8L <<< 30

/// Packing weights costs about as much as reading them for a few tokens, and memory for another copy: it pays for no less than this many.
let private leastPacked = 512L

/// The means for a model, chosen by where its weights are and how large it is, with this much memory for keys and values.
let means (config: ModelConfig) (weights: Weights) (memory: int64) : Means =
    let table = weights "tok_embeddings.weight"
    let host = table.device_type = DeviceType.CPU
    let bytes = Decoder.parameterCount config * table.ElementSize

    {
        Place = if host then HostMemory else Tensors
        PackingFrom = if host && bytes <= packable then leastPacked else Int64.MaxValue
        Workers = if host && bytes <= shareable then torch.get_num_threads () else 1
        Memory = memory
    }

/// Memory for keys and values where nothing else is said: 4 GB.
let usualMemory: int64 = 4_000_000_000L

/// What was drawn.
type Drawn =
    {
        /// Tokens of each sequence
        Tokens: int[][]
        /// Passes of the model over new positions of one batch, of the batch that took the most: one for each token but the last,
        /// fewer where reading ahead gains
        Passes: int64
    }

/// Draws for all prompts, in batches of like lengths that the memory holds, shared out over the workers. `report` is told, on this
/// thread, how many tokens were drawn so far; what it raises ends the work. `number` is that of the first sequence: draws follow from it.
let private drawAll
    (config: ModelConfig)
    (weights: Weights)
    (means: Means)
    (sampling: Sampling)
    (firstId: int, ids: int)
    (count: int)
    (stop: int option)
    (unconditional: int64[] option)
    (report: int64 -> unit)
    (number: int64)
    (prompts: int64[][])
    : Drawn =
    let tokens = Array.create prompts.Length Array.empty<int>
    let order = [| 0 .. prompts.Length - 1 |] |> Array.sortBy (fun i -> prompts[i].Length)
    let rowsEach = if unconditional.IsSome then 2 else 1

    let batches =
        let longest =
            Seq.append (order |> Array.map (fun i -> prompts[i].Length)) (unconditional |> Option.map _.Length |> Option.toList)
            |> Seq.fold max 0

        let half = (weights "tok_embeddings.weight").dtype = torch.bfloat16

        let bytes =
            HostCache.BytesPerPosition(config, half) * int64 (longest + count + sampling.Lookahead) * int64 rowsEach

        let most = int (max 1L (min (int64 (max 1 order.Length)) (means.Memory / max 1L bytes)))

        if order.Length = 0 then
            [||]
        else
            Array.splitInto ((order.Length + most - 1) / most) order

    let parts = max 1 (min means.Workers (batches |> Array.fold (fun least batch -> max least batch.Length) 1))
    let rows = (batches |> Array.fold (fun most batch -> max most batch.Length) 1) * rowsEach / parts

    let packing = int64 prompts.Length * int64 count >= means.PackingFrom
    // Threads of torch's own that have helped once wait for more, spinning, where the workers need the cores.
    use _ = SamplerLoop.alone (parts > 1)
    use prepared = new Prepared(config, weights, firstId, ids, means.Place, packing, max 1 rows)
    let drawn, passes = ref 0L, ref 0L

    for batch in batches do
        let shares = Array.splitInto parts batch

        SamplerLoop.share shares.Length (fun part stopWhenFailed ->
            let tick (count: int) =
                stopWhenFailed ()
                let total = Interlocked.Add(&drawn.contents, int64 count)

                if part = 0 then
                    report total

            let task: SamplerLoop.Task =
                {
                    Prepared = prepared
                    Place = means.Place
                    Sampling = sampling
                    First = int64 firstId
                    Count = count
                    Stop = stop
                    Unconditional = unconditional
                    Tick = tick
                }

            let own = shares[part]

            let found, taken =
                SamplerLoop.together task (own |> Array.map (fun i -> number + int64 i)) (own |> Array.map (fun i -> prompts[i]))

            Array.iter2 (fun i row -> tokens[i] <- row) own found

            lock tokens (fun () -> passes.Value <- max passes.Value taken))

    { Tokens = tokens; Passes = passes.Value }

/// Checks that captions fit into a model with `count` codes. Errors: InputException for a caption that is longer than fits with the
/// codes in the model's positions, or that holds an id outside the text rows.
let requireCaptions (config: ModelConfig) (vocabulary: Vocabulary) (count: int) (captions: int[][]) : unit =
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

/// Pictures for captions: exactly `count` codes each, drawn among the image codes only, with the means that are given; `report` is told
/// how many codes were drawn so far, and what it raises ends the work. Errors: InputException for a caption that is longer than fits
/// with the codes in the model's positions, or that holds an id outside the text rows. `number` is that of the first picture among all
/// of a set that is drawn in several calls: each then comes out as it would in one.
let imagesFrom
    (number: int64)
    (means: Means)
    (report: int64 -> unit)
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (captions: int[][])
    : Drawn =
    requireCaptions config vocabulary count captions
    let unconditional = if sampling.Guidance <> 1.0 then Some(Sequence.prompt vocabulary [||]) else None
    let struct (first, codes) = Vocabulary.columns vocabulary Kind.Image
    let prompts = captions |> Array.map (Sequence.prompt vocabulary)
    drawAll config weights means sampling (int first, int codes) count None unconditional report number prompts

/// `imagesFrom` for a whole set, with the usual means: codes alone.
let images
    (config: ModelConfig)
    (vocabulary: Vocabulary)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (captions: int[][])
    : int[][] =
    (imagesFrom 0L (means config weights usualMemory) ignore config vocabulary weights sampling count captions).Tokens

/// Continues sequences by up to `count` tokens over the first `rows` ids, each until `stop` (which is not returned), with the means that
/// are given; guidance steers away from what follows `unconditional`, where there is such a prompt. Errors: InputException for an empty prompt, an id outside the table, or more positions than were learned.
let continueBy
    (means: Means)
    (report: int64 -> unit)
    (config: ModelConfig)
    (rows: int)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (stop: int option)
    (unconditional: int[] option)
    (prompts: int[][])
    : Drawn =
    let guided = if sampling.Guidance = 1.0 then None else unconditional

    for prompt in Seq.append prompts (Option.toList guided) do
        if prompt.Length = 0 then
            raise (InputException "a completion needs a prompt of at least one token.")

        for id in prompt do
            if id < 0 || id >= rows then
                raise (InputException $"token {id} of the prompt is outside the model's {rows} ids.")

        // The last token is drawn but not read.
        if config.Position = LearnedPosition && prompt.Length + count - 1 > config.Positions then
            raise (
                InputException
                    $"a prompt of {prompt.Length} tokens and {count} new ones do not fit in the model's {config.Positions} learned positions; ask for at most {max 0 (config.Positions + 1 - prompt.Length)}, or shorten the prompt."
            )

    let long = Array.map int64
    drawAll config weights means sampling (0, rows) count stop (Option.map long guided) report 0L (Array.map long prompts)

/// `continueBy` for one sequence, with the usual means.
let complete
    (config: ModelConfig)
    (rows: int)
    (weights: Weights)
    (sampling: Sampling)
    (count: int)
    (stop: int option)
    (prompt: int[])
    : int[] =
    (continueBy (means config weights usualMemory) ignore config rows weights sampling count stop None [| prompt |]).Tokens[0]

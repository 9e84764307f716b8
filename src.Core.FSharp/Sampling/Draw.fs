/// How tokens are drawn from logits. Each draw is a pure function of the seed, the sequence's number, the position and the logits.
module Hybrid.Draw

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
        /// Draws are functions of it, of the sequence's number and of the position
        Seed: int64
        /// Positions that a pass reads ahead of what is drawn (Jacobi decoding); 1 is none. What is drawn stays the same
        Lookahead: int
    }

/// Plain sampling.
let ancestral (seed: int64) : Sampling =
    { Temperature = 1.0; TopK = None; TopP = None; Guidance = 1.0; Seed = seed; Lookahead = 1 }

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

/// Draws one token of each row of logits [B, V] with uniform values in [0, 1), [B] float64: [B] int64.
let internal drawWith (sampling: Sampling) (uniforms_B: torch.Tensor) (logits_BV: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let columns = logits_BV.shape[1]

    let chosen =
        if sampling.Temperature <= 0.0 then
            logits_BV.argmax 1L
        else
            // Tokens that top-k leaves out are not carried along; the others stand in the order of their ids.
            let ids, logits =
                match sampling.TopK with
                | Some k when int64 k < columns ->
                    let struct (_, indices) = logits_BV.topk k
                    let struct (ids, _) = indices.sort 1L
                    Some ids, logits_BV.gather (1L, ids)
                | _ -> None, logits_BV

            // Inverse of the cumulative distribution, in double precision so that no token is lost to rounding.
            let cumulative = (restrict { sampling with TopK = None } logits).``to``(torch.float64).softmax(1L).cumsum 1L

            let total = cumulative.narrow (1, cumulative.shape[1] - 1L, 1L)
            let place = cumulative.le(uniforms_B.unsqueeze(1).mul total).sum(1L)
            // The first place where all has been passed: what is left out behind it is never drawn.
            let place = place.minimum (cumulative.lt(total).sum 1L)

            match ids with
            | Some ids -> ids.gather(1L, place.unsqueeze 1L).squeeze 1L
            | None -> place

    chosen.MoveToOuterDisposeScope()

/// `drawWith` for uniform values in host memory.
let draw (sampling: Sampling) (uniforms: float[]) (logits_BV: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let uniforms = torch.tensor(uniforms, dtype = torch.float64).``to`` logits_BV.device
    (drawWith sampling uniforms logits_BV).MoveToOuterDisposeScope()

/// The uniform value that decides the draw of a sequence's token, counted from 0 behind its prompt.
let uniform (seed: int64) (number: int64) (position: int) : float =
    let stream = Random.ofSeed seed |> Random.named "sampling"
    Random.uniform (Random.numbered number stream) (int64 position)

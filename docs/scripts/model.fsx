// A decoder is a function made of functions: embed >> blocks >> norm >> head. Here one is put together, and its block is swapped.
// Build first: dotnet build src.Runner.CSharp -c Release. The native libraries lie beside these two and are found there.
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"

open Hybrid
open TorchSharp

torch.set_num_threads 1

let vocabulary: Vocabulary = { TextRows = 100; ImageCodes = 64 }
let config = { ModelConfig.openLm 32 2 4 vocabulary.Rows 64 with FeedForwardWidth = 64 }

let store = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config)

Parameters.initialise (Random.ofSeed 1L) store
let weights = store.Weights

// Two captioned pictures of 16 codes, in 32 positions; the last one is a target only.
let batch =
    [|
        for i in 0..1 -> Sequence.compose vocabulary Captioned 32 [| 7 + i; 8; 9 |] [| for k in 0..15 -> 4 * k + i |]
    |]
    |> Sequence.batch vocabulary torch.CPU

let rotation = Decoder.rotation config weights 0L batch.Inputs.shape[1]

/// A model with this block in every layer.
let modelOf (block: int -> torch.Tensor -> torch.Tensor) : torch.Tensor -> torch.Tensor =
    let blocks = [ 0 .. config.Layers - 1 ] |> List.map block |> List.fold (>>) id

    Decoder.embed config weights
    >> blocks
    >> Decoder.finalNorm config weights
    >> Decoder.head config weights vocabulary.Rows

/// Nats per target.
let loss (logits: torch.Tensor) : float32 =
    let value = Loss.score vocabulary batch logits |> Loss.evaluate Loss.total
    value.Objective.item<float32>() / float32 batch.Count

let whole = modelOf (Decoder.block config weights rotation) batch.Inputs
let same = whole.eq(Decoder.logits config vocabulary.Rows weights batch.Inputs).all().item<bool>()
printfn $"{Parameters.count store:N0} parameters; logits {Shape.show whole.shape}; loss {loss whole:F4} nats"
printfn $"the same as Decoder.logits, bit for bit: {same}"

// Another block: attention alone, without a feed-forward layer.
let attentionOnly (layer: int) (x_BTD: torch.Tensor) : torch.Tensor =
    let norm = Layers.norm config.Norm config.NormEpsilon weights $"layers.{layer}.attention_norm"
    norm x_BTD |> Layers.attention config weights $"layers.{layer}.attention" rotation |> x_BTD.plus

let swapped = modelOf attentionOnly batch.Inputs
let furthest = swapped.sub(whole).abs().max().item<float32>()
printfn $"without feed-forward layers: loss {loss swapped:F4} nats; a logit moves by {furthest:F3} at most"

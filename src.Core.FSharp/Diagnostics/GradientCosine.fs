/// Whether two parts of the loss pull the weights the same way: the cosine between their gradients.
///
/// Gradients over few sequences are noisy, and noise turns any two of them towards a right angle. So gradients are taken over two halves
/// of the sequences: how far those of one loss agree says how much is noise, and products between different halves, whose noises have
/// nothing in common, estimate the cosine of the gradients over all data.
namespace Hybrid

open System
open TorchSharp

/// Two gradients with respect to some parameters.
type GradientPair =
    {
        /// What the parameters are for, as `ParameterGroups` has it
        Group: string
        /// The layer, counted from 0; −1 where they belong to none or to several
        Layer: int
        /// Numbers in the parameters
        Parameters: int64
        /// Between the gradients over all sequences, from −1 to 1; nan where one is 0
        Cosine: float
        /// The same without the noise of few sequences: ½ (f_A · s_B + f_B · s_A) / √((f_A · f_B) (s_A · s_B)) of the halves A and B. It may
        /// lie beyond ±1; nan where the halves do not agree at all
        Corrected: float
        /// ‖g₁‖ over all sequences
        FirstNorm: float
        /// ‖g₂‖ over all sequences
        SecondNorm: float
        /// Between the first loss's gradients over the two halves; nan where one is 0
        FirstAgreement: float
        /// Between the second loss's
        SecondAgreement: float
    }

/// The gradients of the mean losses of two kinds of target.
type GradientCosines =
    {
        /// The kind whose loss gives the first gradient
        First: Kind
        /// The kind whose loss gives the second one
        Second: Kind
        /// Targets of each kind
        FirstCount: int64
        /// Targets of the second kind
        SecondCount: int64
        /// All parameters together
        Whole: GradientPair
        /// By group, from the embedding to the head
        Groups: GradientPair[]
    }

/// How the gradients of two kinds of loss stand to each other, with the noise of few sequences taken out.
module GradientCosine =

    /// The gradient of the mean loss of one kind over all batches, flat, fp32, in the store's layout; the caller owns it.
    let private gradientOf
        (config: ModelConfig)
        (vocabulary: Vocabulary)
        (store: ParameterStore)
        (batches: Batch[])
        (kind: Kind)
        : torch.Tensor =
        use leaves = store.WholeReplica()
        let count = batches |> Array.sumBy (fun batch -> batch.Counts[int kind])
        let wide = store.Compute.dtype = torch.float32

        // In bf16 a sum of batches would lose what each adds.
        let sum =
            if wide then
                leaves.Gradient.alias ()
            else
                torch.zeros ([| store.Length |], dtype = torch.float32, device = store.Device)

        let loss (batch: Batch) (weights: Weights) =
            Decoder.hiddenOf config weights batch |> HeadLoss.evaluate (Loss.ofKind kind) config vocabulary weights batch

        for batch in batches do
            if batch.Counts[int kind] > 0L then
                use _ = Step.backward count (loss batch) leaves.Weights
                ()

                if not wide then
                    use _ = torch.no_grad ()
                    sum.plus_ leaves.Gradient |> ignore
                    leaves.Gradient.zero_ () |> ignore

        sum

    /// The vectors are the gradients of the first loss over both halves and those of the second; `first` and `second` are the halves'
    /// shares of the targets.
    let private pair (first: float[]) (second: float[]) (group: string) (layer: int) (p: Gram) : GradientPair =
        let g = p.Products

        // Of sums a₀ v_i + a₁ v_{i+1} and b₀ v_j + b₁ v_{j+1}.
        let product (a: float[]) i (b: float[]) j =
            a[0] * b[0] * g[i, j] + a[0] * b[1] * g[i, j + 1] + a[1] * b[0] * g[i + 1, j] + a[1] * b[1] * g[i + 1, j + 1]

        let firstNorm, secondNorm = sqrt (max 0.0 (product first 0 first 0)), sqrt (max 0.0 (product second 2 second 2))
        let lengths = firstNorm * secondNorm
        let signal = if g[0, 1] > 0.0 && g[2, 3] > 0.0 then sqrt g[0, 1] * sqrt g[2, 3] else nan

        {
            Group = group
            Layer = layer
            Parameters = p.Count
            Cosine = if lengths > 0.0 then Math.Clamp(product first 0 second 2 / lengths, -1.0, 1.0) else nan
            Corrected = (g[0, 3] + g[1, 2]) / 2.0 / signal
            FirstNorm = firstNorm
            SecondNorm = secondNorm
            FirstAgreement = p.Cosine(0, 1)
            SecondAgreement = p.Cosine(2, 3)
        }

    /// The gradients of the mean losses of two kinds over sequences of one length, `size` of them at a time, with respect to every
    /// parameter, whether it moves in training or not. The halves are every other sequence. Gradients are the function's own, in the
    /// precision of the model with sums in fp32: the store's stay as they are. They take 16 bytes a parameter, and 2 more in bf16.
    /// Errors: those of `Sequence.batchOf`.
    let between
        (config: ModelConfig)
        (vocabulary: Vocabulary)
        (store: ParameterStore)
        (size: int)
        (first: Kind)
        (second: Kind)
        (sequences: int64[][])
        : GradientCosines =
        use _ = torch.enable_grad ()
        use _ = torch.NewDisposeScope()

        let halves =
            [|
                for half in 0..1 ->
                    match sequences |> Array.indexed |> Array.filter (fun (i, _) -> i % 2 = half) |> Array.map snd with
                    | [||] -> [||]
                    | some -> Sequence.microBatches Dropped vocabulary store.Device (max 1 size) some
            |]

        let counts kind = halves |> Array.map (fun batches -> batches |> Array.sumBy (fun batch -> batch.Counts[int kind]))

        let shares kind =
            let counts = counts kind
            let all = max 1L (Array.sum counts)
            counts |> Array.map (fun count -> float count / float all)

        let gradients kind = [ for batches in halves -> gradientOf config vocabulary store batches kind ]
        let ofFirst = gradients first
        let vectors = ofFirst @ (if second = first then ofFirst else gradients second)

        let pieces =
            [
                for slot in store.Slots do
                    for piece in ParameterGroups.pieces vocabulary slot.Spec -> slot, piece
            ]

        let products =
            [
                for slot, piece in pieces ->
                    let own = [ for flat in vectors -> ParameterGroups.slice flat slot.Offset piece ]

                    piece.Count,
                    ParameterGroups.gram piece.Count (fun start count -> [ for v in own -> v.narrow (0L, start, count) ])
            ]
            |> ParameterGroups.read

        let pair = pair (shares first) (shares second)

        {
            First = first
            Second = second
            FirstCount = Array.sum (counts first)
            SecondCount = Array.sum (counts second)
            Whole = pair "all" -1 (ParameterGroups.total products)
            Groups =
                ParameterGroups.sums (List.map snd pieces) products
                |> List.map (fun (group, layer, sum) -> pair group layer sum)
                |> List.toArray
        }

/// Whether two parts of the loss pull the weights the same way: the cosine between their gradients.
namespace Hybrid

open System
open System.Collections.Generic
open TorchSharp

/// Two gradients with respect to some parameters.
type GradientPair =
    {
        /// What the parameters are for, as `ParameterGroups` has it
        Group: string
        /// The layer, counted from 0; −1 where they belong to none or to several
        Layer: int
        Parameters: int64
        /// Between −1 and 1; nan where a gradient is 0
        Cosine: float
        FirstNorm: float
        SecondNorm: float
    }

/// The gradients of the mean losses of two kinds of target.
type GradientCosines =
    {
        First: Kind
        Second: Kind
        /// Targets of each kind
        FirstCount: int64
        SecondCount: int64
        /// All parameters together
        Whole: GradientPair
        /// By group, from the embedding to the head
        Groups: GradientPair[]
    }

module GradientCosine =

    /// Weights of a store that all collect gradients, whatever moves in training, into a flat gradient of the store's layout.
    let private leavesOf (store: ParameterStore) : Replica =
        let gradient =
            torch.zeros([| store.Length |], dtype = store.Compute.dtype, device = store.Device).DetachFromDisposeScope()

        let view (flat: torch.Tensor) (slot: Slot) =
            use narrowed = flat.narrow (0, slot.Offset, slot.Spec.Count)
            narrowed.view(List.toArray slot.Spec.Shape).DetachFromDisposeScope()

        let leaves = Dictionary<string, torch.Tensor>()

        for slot in store.Slots do
            let leaf = view store.Compute slot
            leaf.requires_grad <- true
            use gradientView = view gradient slot
            leaf.grad <- gradientView
            leaves.Add(slot.Spec.Name, leaf)

        new Replica(leaves, gradient)

    /// The gradient of the mean loss of one kind over all batches, flat, fp32, in the store's layout; the caller owns it.
    let private gradientOf
        (config: ModelConfig)
        (vocabulary: Vocabulary)
        (store: ParameterStore)
        (batches: Batch[])
        (kind: Kind)
        : torch.Tensor =
        use leaves = leavesOf store
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

    let private pair (group: string) (layer: int) (products: InnerProducts) : GradientPair =
        {
            Group = group
            Layer = layer
            Parameters = products.Count
            Cosine = products.Cosine
            FirstNorm = sqrt products.First
            SecondNorm = sqrt products.Second
        }

    /// The gradients of the mean losses of two kinds over sequences of one length, `size` of them at a time, with respect to every
    /// parameter, whether it moves in training or not. Gradients are the function's own, in the precision of the model with sums in
    /// fp32: the store's stay as they are. They take 8 bytes a parameter, and 2 more in bf16. Errors: those of `Sequence.batchOf`.
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
        let batches = Sequence.microBatches Dropped vocabulary store.Device (max 1 size) sequences
        let a = gradientOf config vocabulary store batches first
        let b = if second = first then a else gradientOf config vocabulary store batches second

        let pieces =
            [
                for slot in store.Slots do
                    for piece in ParameterGroups.pieces vocabulary slot.Spec -> slot, piece
            ]

        let products =
            [
                for slot, piece in pieces ->
                    let part flat = ParameterGroups.slice flat slot.Offset piece
                    piece.Count, ParameterGroups.products (part a) (part b)
            ]
            |> ParameterGroups.read

        let count kind = batches |> Array.sumBy (fun batch -> batch.Counts[int kind])

        {
            First = first
            Second = second
            FirstCount = count first
            SecondCount = count second
            Whole = pair "all" -1 (List.sum products)
            Groups =
                ParameterGroups.sums (List.map snd pieces) products
                |> List.map (fun (group, layer, sum) -> pair group layer sum)
                |> List.toArray
        }

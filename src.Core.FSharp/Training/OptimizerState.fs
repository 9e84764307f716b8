/// What an optimizer keeps, by one process or in the slices of many.
namespace Hybrid

open System
open TorchSharp

/// AdamW and clipping.
type OptimizerConfig =
    {
        /// Decays of the first and the second moment, in [0, 1)
        Betas: float * float
        /// Beside the root of the second moment
        Epsilon: float
        /// Decoupled, times the learning rate (Loshchilov & Hutter 2019)
        WeightDecay: float
        /// Which parameters decay
        Decay: Parameters.Decay
        /// Largest global gradient norm; none when absent
        ClipNorm: float option
    }

/// How the processes of a run share the state of a step (ZeRO; Rajbhandari et al. 2020, arXiv:1910.02054).
[<NoEquality; NoComparison>]
type Sharing =
    {
        /// The collectives that join the processes
        Exchange: IExchange
        /// 0: each process keeps all; 1: moments, and in bf16 the fp32 master weights, in slices; 2: gradients too; 3: all weights of
        /// blocks too
        Stage: int
        /// The range that has a gradient, in the order in which a backward pass leaves it whole
        Buckets: Bucket list
    }

    /// One process, which keeps all.
    static member Alone: Sharing = { Exchange = Exchange.alone; Stage = 0; Buckets = [] }

    /// Whether each process keeps a slice of the moments.
    member s.Sliced = s.Exchange.Size > 1 && s.Stage >= 1

    /// Whether each process keeps a slice of the weights themselves.
    member s.SlicesWeights = s.Exchange.Size > 1 && s.Stage >= 3

    /// Whether the fp32 weights are there in slices only.
    member s.SlicesMaster(precision: Precision) = s.SlicesWeights || (s.Sliced && precision = Bf16)

    /// Whether each process keeps a slice of the gradients.
    member s.SlicesGradients = s.Exchange.Size > 1 && s.Stage >= 2

/// A piece of flat memory that one update goes over, in each of the tensors that it needs.
[<NoEquality; NoComparison>]
type Piece =
    {
        /// Where it stands in the store
        Segment: Segment
        /// Its place among the packed elements of all segments
        Place: int64
        /// fp32
        Weights: torch.Tensor
        /// In the precision in which micro-batches add up
        Gradient: torch.Tensor
        /// First moments, fp32
        First: torch.Tensor
        /// Second moments, fp32
        Second: torch.Tensor
    }

/// Moments of what moves, flat and packed in the order of the store's segments; of a process's own slices alone where `sharing` says so.
/// It owns its tensors. `gradients` is the precision in which micro-batches add up: in Bf16 the gradient of a store in bf16 is the only
/// one there is.
[<Sealed>]
type OptimizerState
    /// Moments of 0 for what moves of a store, in the precision and the slices that are asked for.
    (store: ParameterStore, gradients: Precision, sharing: Sharing) =
    let owned =
        if sharing.Sliced then
            Exchange.owned sharing.Exchange.Size sharing.Exchange.Rank sharing.Buckets
        else
            [ store.FirstMoving, store.Length - store.FirstMoving ]

    let ranges = Exchange.pieces store.Segments owned
    let length = ranges |> List.sumBy (fun (piece, _) -> piece.Length)
    let keptLength = owned |> List.sumBy snd

    let flat (length: int64) (dtype: torch.ScalarType) =
        torch.zeros([| length |], dtype = dtype, device = store.Device).DetachFromDisposeScope()

    let first, second = flat length torch.float32, flat length torch.float32
    let steps, skipped = flat 1L torch.float32, flat 1L torch.float32

    let own = not sharing.SlicesGradients && (store.Precision = gradients || store.Precision = Fp32)

    // The store's own gradient, or a second buffer, to which micro-batches are added.
    let gradient =
        if own then
            store.Gradient.alias().DetachFromDisposeScope()
        else
            let dtype = if gradients = Bf16 && store.Precision = Bf16 then torch.bfloat16 else torch.float32
            flat (if sharing.SlicesGradients then keptLength else store.Length - store.FirstMoving) dtype

    // Where each of the process's ranges begins among them all.
    let ownedPlaces = Flat.packed snd owned

    let kept (flat: torch.Tensor) (start: int64) (length: int64) =
        let (from, _), at = ownedPlaces |> List.find (fun ((s, l), _) -> start >= s && start + length <= s + l)

        flat.narrow (0L, at + start - from, length)

    // The master weights of other processes' slices are of no use here, but for those in fp32 that compute.
    let master, frozen =
        if sharing.SlicesMaster store.Precision then
            use _ = torch.no_grad ()
            let master = flat keptLength torch.float32

            for (start, length), at in ownedPlaces do
                use target = master.narrow (0L, at, length)
                use source = store.Master.narrow (0L, start, length)
                target.copy_ source |> ignore

            use still = store.Master.narrow (0L, 0L, store.FirstMoving)
            let frozen = still.clone().DetachFromDisposeScope()

            if not sharing.SlicesWeights then
                store.ReleaseMaster()

            Some master, Some frozen
        else
            None, None

    let weights (start: int64) (length: int64) =
        match master with
        | Some master -> kept master start length
        | None -> store.Master.narrow (0L, start, length)

    let gradientOf (start: int64) (length: int64) =
        if sharing.SlicesGradients then
            kept gradient start length
        else
            gradient.narrow (0L, start - store.FirstMoving, length)

    let pieces =
        [
            for (segment, place), at in Flat.packed (fun (piece: Segment, _) -> piece.Length) ranges ->
                {
                    Segment = segment
                    Place = place
                    Weights = (weights segment.Start segment.Length).DetachFromDisposeScope()
                    Gradient = (gradientOf segment.Start segment.Length).DetachFromDisposeScope()
                    First = first.narrow(0L, at, segment.Length).DetachFromDisposeScope()
                    Second = second.narrow(0L, at, segment.Length).DetachFromDisposeScope()
                }
        ]

    do
        if sharing.SlicesGradients then
            store.Own.Loosen()

    /// A state of one process.
    new(store: ParameterStore, gradients: Precision) = new OptimizerState(store, gradients, Sharing.Alone)

    /// A state of one process whose gradients add up in fp32.
    new(store: ParameterStore) = new OptimizerState(store, Fp32, Sharing.Alone)

    /// Which slices this process keeps.
    member _.Sharing = sharing

    /// First moments, flat.
    member _.First = first

    /// Second moments, flat.
    member _.Second = second

    /// Updates made, an fp32 scalar as AdamW's kernel wants it.
    member _.Steps = steps

    /// Updates left out because the gradient was not finite.
    member _.Skipped = skipped

    /// Gradient over the micro-batches so far: of the range [FirstMoving, Length), or of the process's slices of it.
    member _.Gradient = gradient

    /// The gradient of a range [start, start + length) of the store that this process keeps; the caller owns the view.
    member _.GradientOf(start: int64, length: int64) : torch.Tensor = gradientOf start length

    /// The fp32 weights of such a range; the caller owns the view.
    member _.WeightsOf(start: int64, length: int64) : torch.Tensor = weights start length

    /// The fp32 weights of the range [0, FirstMoving), which stay; the caller owns the view.
    member _.Frozen: torch.Tensor =
        match frozen with
        | Some frozen -> frozen.alias ()
        | None -> store.Master.narrow (0L, 0L, store.FirstMoving)

    /// Whether `Gradient` is the store's own memory.
    member _.OwnGradient = own

    /// Each piece of flat memory that this process updates.
    member _.Pieces = pieces

    /// Releases its tensors.
    member _.Dispose() : unit =
        for piece in pieces do
            for tensor in [ piece.Weights; piece.Gradient; piece.First; piece.Second ] do
                tensor.Dispose()

        for tensor in [ first; second; steps; skipped; gradient ] @ Option.toList master @ Option.toList frozen do
            tensor.Dispose()

    interface IDisposable with
        member state.Dispose() = state.Dispose()

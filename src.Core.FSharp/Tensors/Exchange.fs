/// What the processes of one run do together, and how they share flat memory: in buckets, of each of which every process owns a slice.
namespace Hybrid

open System
open TorchSharp

/// Collective operations over the processes of a run. Tensors are flat and contiguous. All processes make the same calls in the same
/// order; the host carries them out one after the other, aside from the thread that asks. With one process nothing happens.
type IExchange =
    /// This process, from 0
    abstract Rank: int
    /// Processes in all
    abstract Size: int

    /// Sums a tensor over all processes, in place, to the same bits on each.
    abstract AllReduce: torch.Tensor -> unit

    /// Sums a tensor over all processes; its slice of this process (`Slices.range`) has the sum then, the rest is undefined.
    abstract ReduceScatter: torch.Tensor -> unit

    /// Fills a tensor with the slices of all processes, of which each has its own in place.
    abstract AllGather: torch.Tensor -> unit

    /// Lets what follows in a piece of work read what was exchanged before it in the same piece.
    abstract Ready: unit -> unit

    /// Sums of the host's numbers over all processes.
    abstract Sum: float[] -> float[]

    /// Begins work that calls the other members. What is begun is carried out in that order; the result waits for it and raises what it
    /// raised.
    abstract Begin: Action -> Action

/// The slices of flat memory that processes own.
module Slices =

    // Slices begin where parameters may: products and vector instructions want it so.
    let private border = 64L

    /// The length of each slice of so many elements but the last ones, which may be shorter or empty: a multiple of 64.
    let each (size: int) (length: int64) : int64 =
        let parts = int64 size
        ((length + parts - 1L) / parts + border - 1L) / border * border

    /// Start and length of the slice of a process.
    let range (size: int) (rank: int) (length: int64) : struct (int64 * int64) =
        let each = each size length
        let start = min length (each * int64 rank)
        struct (start, min each (length - start))

/// A range of a store's flat memory that is reduced and gathered as one.
type Bucket =
    {
        /// Its first element
        Start: int64
        /// Its elements
        Length: int64
        /// The block of which the backward pass has left this gradient whole, once it and the blocks above it are over; −1: the whole
        /// backward pass must be over
        After: int
        /// All that is in slices of a block, which is gathered for its time only
        Whole: bool
    }

    /// The element behind its last one.
    member b.End = b.Start + b.Length

/// Cutting flat memory into buckets, and the exchange of a process that is alone.
module Exchange =

    /// One process by itself.
    let alone: IExchange =
        { new IExchange with
            member _.Rank = 0
            member _.Size = 1
            member _.AllReduce _ = ()
            member _.ReduceScatter _ = ()
            member _.AllGather _ = ()
            member _.Ready() = ()
            member _.Sum values = values

            member _.Begin work =
                work.Invoke()
                Action(ignore)
        }

    // A message of fewer elements than this costs about as much as an empty one.
    let private shortest = 1L <<< 16

    let private cut (longest: int64) (bucket: Bucket) : Bucket list =
        [
            for start in bucket.Start .. longest .. bucket.End - 1L ->
                { bucket with Start = start; Length = min longest (bucket.End - start) }
        ]

    /// The buckets of the range of a store that has a gradient, in the order in which a backward pass leaves them whole. A bucket has the
    /// parameters of one block, as far as they stand side by side and are at most `longest` elements; small neighbours go together.
    /// `longest` is rounded to a multiple of 64.
    let buckets (longest: int64) (slots: Slot list) (length: int64) : Bucket list =
        let longest = max 64L (longest / 64L * 64L)
        let moving = slots |> List.filter (fun slot -> slot.Movement <> Stays)

        let ends =
            match moving with
            | [] -> []
            | moving -> (moving |> List.tail |> List.map _.Offset) @ [ length ]

        let join merged (piece: Bucket) =
            match merged with
            | last :: rest when
                last.Length + piece.Length <= longest && (last.After = piece.After || min last.Length piece.Length < shortest)
                ->
                { last with Length = last.Length + piece.Length; After = min last.After piece.After } :: rest
            | _ -> piece :: merged

        List.zip moving ends
        |> List.map (fun (slot, last) ->
            {
                Start = slot.Offset
                Length = last - slot.Offset
                After = ParameterName.block slot.Spec.Name
                Whole = false
            })
        |> List.fold join []
        |> List.collect (cut longest)
        |> List.sortBy (fun bucket -> -bucket.After, bucket.Start)

    /// The buckets of a store whose blocks are in slices: one for each block, with what of its parameters stands side by side and is
    /// longest, and those of `buckets` for all the rest, which are whole only after the backward pass.
    let blockBuckets (longest: int64) (slots: Slot list) (length: int64) : Bucket list =
        let ends = (slots |> List.tail |> List.map _.Offset) @ [ length ]

        let join runs (slot: Slot, last: int64) =
            match runs with
            | (run: Bucket) :: rest when run.After = ParameterName.block slot.Spec.Name ->
                { run with Length = last - run.Start } :: rest
            | _ ->
                {
                    Start = slot.Offset
                    Length = last - slot.Offset
                    After = ParameterName.block slot.Spec.Name
                    Whole = true
                }
                :: runs

        let runs = List.zip slots ends |> List.fold join []

        let blocks =
            runs
            |> List.filter (fun run -> run.After >= 0)
            |> List.groupBy _.After
            |> List.map (fun (_, runs) -> List.maxBy _.Length runs)

        let outside (bucket: Bucket) =
            // What lies between blocks, cut where these begin and end.
            blocks
            |> List.fold
                (fun pieces block ->
                    pieces
                    |> List.collect (fun (piece: Bucket) ->
                        [
                            let before = min piece.End block.Start

                            if before > piece.Start then
                                { piece with Length = before - piece.Start }

                            let after = max piece.Start block.End

                            if piece.End > after then
                                { piece with Start = after; Length = piece.End - after }
                        ]))
                [ bucket ]

        let rest =
            outside
                {
                    Start = (List.head slots).Offset
                    Length = length - (List.head slots).Offset
                    After = -1
                    Whole = false
                }
            |> List.collect (cut longest)
            |> List.sortBy _.Start

        List.sortBy (fun block -> -block.After) blocks @ rest

    /// The ranges of a store's flat memory that a process owns: its slice of each bucket, in their order in memory.
    let owned (size: int) (rank: int) (buckets: Bucket list) : (int64 * int64) list =
        [
            for bucket in List.sortBy _.Start buckets do
                let struct (start, length) = Slices.range size rank bucket.Length

                if length > 0L then
                    bucket.Start + start, length
        ]

    /// What of the segments lies in some ranges, in order: each piece with its place among the packed elements of all segments.
    let pieces (segments: Segment list) (ranges: (int64 * int64) list) : (Segment * int64) list =
        [
            for segment, at in Flat.packed (fun (segment: Segment) -> segment.Length) segments do
                for start, length in ranges do
                    let first, last = max start segment.Start, min (start + length) (segment.Start + segment.Length)

                    if first < last then
                        { segment with Start = first; Length = last - first }, at + first - segment.Start
        ]

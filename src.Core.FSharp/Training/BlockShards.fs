/// Weights of blocks in slices (ZeRO-3; fully sharded data parallelism): each process keeps a slice of every block, gathered for the
/// block's forward pass and again for its backward pass, which computes the block once more.
namespace Hybrid

open System
open System.Collections.Generic
open TorchSharp

/// A block that has been gathered into memory for the time that it computes.
[<NoEquality; NoComparison>]
type private Room =
    {
        Memory: torch.Tensor
        Leaves: Replica
        /// The block that is in it, or will be; −1 for none
        mutable Block: int
        mutable Wait: Action
    }

/// The weights of a model whose blocks are in slices: whole for embedding, norms and head, gathered for blocks. It takes the place of the
/// store's own memory, which it lets go of. Dispose it to release its memory.
[<Sealed>]
type internal BlockShards(store: ParameterStore, state: OptimizerState) =
    let sharing = state.Sharing
    let exchange = sharing.Exchange
    let blocks, others = sharing.Buckets |> List.partition _.Whole
    let blocks = blocks |> List.sortBy _.After |> List.toArray

    let flat (length: int64) (dtype: torch.ScalarType) =
        torch.zeros([| length |], dtype = dtype, device = store.Device).DetachFromDisposeScope()

    let own (bucket: Bucket) = Slices.range exchange.Size exchange.Rank bucket.Length

    let inside (bucket: Bucket) (slot: Slot) = slot.Offset >= bucket.Start && slot.Offset < bucket.End

    // What is not in slices, as one range of memory of its own: where each bucket of it begins there.
    let places = Flat.packed (fun (bucket: Bucket) -> bucket.Length) others

    let root = flat (others |> List.sumBy _.Length) store.Compute.dtype

    let rootSlots =
        store.Slots |> List.filter (fun slot -> not (Array.exists (fun block -> inside block slot) blocks))

    let leafOf (memory: torch.Tensor) (at: int64) (slot: Slot) =
        use narrowed = memory.narrow (0L, at, slot.Spec.Count)
        let leaf = narrowed.view(List.toArray slot.Spec.Shape).DetachFromDisposeScope()
        leaf.requires_grad <- true
        leaf

    // Buckets follow each other in flat memory where a parameter is cut, so it is whole here too.
    let rootLeaves =
        let leaves = Dictionary<string, torch.Tensor>()

        for slot in rootSlots do
            let bucket, at = places |> List.find (fun (bucket, _) -> inside bucket slot)
            leaves.Add(slot.Spec.Name, leafOf root (at + slot.Offset - bucket.Start) slot)

        new Replica(leaves, rootSlots, 0L, null)

    let relative (name: string) = name.Substring(name.IndexOf('.', "layers.".Length) + 1)

    let longest = if blocks.Length = 0 then 0L else blocks |> Array.map _.Length |> Array.max

    let room () : Room =
        let memory = flat longest store.Compute.dtype
        let leaves = Dictionary<string, torch.Tensor>()

        let slots =
            [
                for slot in store.Slots do
                    if inside blocks[0] slot then
                        { slot with
                            Offset = slot.Offset - blocks[0].Start
                            Spec = { slot.Spec with Name = relative slot.Spec.Name }
                        }
            ]

        for slot in slots do
            leaves.Add(slot.Spec.Name, leafOf memory slot.Offset slot)

        {
            Memory = memory
            Leaves = new Replica(leaves, slots, 0L, null)
            Block = -1
            Wait = Action(ignore)
        }

    let rooms = if blocks.Length = 0 then [||] else [| room (); room () |]

    let scratch =
        let rest = others |> List.map _.Length
        flat (List.max (longest :: rest)) state.Gradient.dtype

    // A process's own slice is rounded to the precision that computes; the others' come with it.
    let gatherInto (memory: torch.Tensor) (at: int64) (bucket: Bucket) =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let struct (start, length) = own bucket

        if length > 0L then
            memory.narrow(0L, at + start, length).copy_(state.WeightsOf(bucket.Start + start, length)) |> ignore

        exchange.AllGather(memory.narrow (0L, at, bucket.Length))

    let reduce (leaves: Replica) (offset: int64) (bucket: Bucket) =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        Reduction.intoSlice state scratch (fun sum -> leaves.Take(sum, bucket.Start - offset, bucket.Length)) bucket

    let reductions = Queue<Action>()

    let summon (block: int) =
        let room = rooms[block % 2]

        if room.Block <> block then
            room.Block <- block
            room.Wait <- exchange.Begin(fun () -> gatherInto room.Memory 0L blocks[block])

    let publishRoot () =
        let waits = [ for bucket, at in places -> exchange.Begin(fun () -> gatherInto root at bucket) ]

        for wait in waits do
            wait.Invoke()

        for room in rooms do
            room.Block <- -1

    do
        publishRoot ()
        store.Release()

    /// The weights that compute; those of a block are there between `Enter` and the next block's.
    member _.Weights: Weights = rootLeaves.Weights

    /// The weights of a block with all others; what it waits for is on its way when blocks are entered one after the other, upwards
    /// or, where `down`, downwards.
    member _.Enter(block: int, down: bool) : Weights =
        summon block
        let next = if down then block - 1 else block + 1

        if next >= 0 && next < blocks.Length then
            summon next

        let room = rooms[block % 2]
        room.Wait.Invoke()
        let prefix = $"layers.{block}."

        fun name ->
            if name.StartsWith(prefix, StringComparison.Ordinal) && (room.Leaves.Has(relative name)) then
                room.Leaves.Weights(relative name)
            else
                rootLeaves.Weights name

    /// The backward pass of a block is over: its gradients go to the processes that keep them.
    member _.Leave(block: int) : unit =
        let room, bucket = rooms[block % 2], blocks[block]
        reductions.Enqueue(exchange.Begin(fun () -> reduce room.Leaves bucket.Start bucket))

    /// A backward pass is over: what is left of gradients goes the same way. Waits for all of it.
    member _.Finish() : unit =
        for bucket, _ in places do
            reductions.Enqueue(exchange.Begin(fun () -> reduce rootLeaves 0L bucket))

        while reductions.Count > 0 do
            reductions.Dequeue().Invoke()

    /// The part of a process that has no micro-batch left: what the others ask for.
    member shards.TakePart() : unit =
        for block in 0 .. blocks.Length - 1 do
            shards.Enter(block, false) |> ignore

        for block in blocks.Length - 1 .. -1 .. 0 do
            shards.Enter(block, true) |> ignore
            shards.Leave block

        shards.Finish()

    /// The master weights have changed.
    member _.Publish() : unit = publishRoot ()

    interface IDisposable with
        member _.Dispose() =
            (rootLeaves :> IDisposable).Dispose()
            root.Dispose()
            scratch.Dispose()

            for room in rooms do
                (room.Leaves :> IDisposable).Dispose()
                room.Memory.Dispose()

/// Gradients summed over the processes of a run, bucket by bucket, while the backward pass goes on.
namespace Hybrid

open System
open System.Collections.Generic
open System.Threading
open TorchSharp

module internal Reduction =

    /// Sums over all processes what `take` adds to a tensor of a bucket's length, and adds this process's slice to its gradient.
    let intoSlice (state: OptimizerState) (scratch: torch.Tensor) (take: torch.Tensor -> unit) (bucket: Bucket) : unit =
        let exchange = state.Sharing.Exchange
        let sum = scratch.narrow (0L, 0L, bucket.Length)
        sum.zero_ () |> ignore
        take sum
        exchange.ReduceScatter sum
        exchange.Ready()
        let struct (start, length) = Slices.range exchange.Size exchange.Rank bucket.Length

        if length > 0L then
            state.GradientOf(bucket.Start + start, length).plus_(sum.narrow (0L, start, length)) |> ignore

/// The reductions of one trainer. In a round, threads go backward side by side, each with a replica; a bucket is begun when all of them
/// have left it whole. All processes begin the same buckets in the same order. Dispose it to release its memory.
[<Sealed>]
type internal GradientExchange(store: ParameterStore, state: OptimizerState, overlap: bool, blocks: int) =
    let sharing = state.Sharing
    let exchange = sharing.Exchange
    let buckets = List.toArray sharing.Buckets
    let passes = Array.zeroCreate<int> blocks
    let gate = Lock()
    let waiting = Queue<Action>()
    let mutable begun = 0
    let mutable round: Replica list = []

    let scratch =
        if sharing.SlicesGradients && not sharing.SlicesWeights && buckets.Length > 0 then
            let longest = buckets |> Array.map _.Length |> Array.max

            Some(torch.zeros([| longest |], dtype = state.Gradient.dtype, device = store.Device).DetachFromDisposeScope())
        else
            None

    let reduceWhole (replicas: Replica list) (bucket: Bucket) =
        let target = state.Gradient.narrow (0L, bucket.Start - store.FirstMoving, bucket.Length)

        for replica in replicas do
            if not (obj.ReferenceEquals(replica, store.Own) && state.OwnGradient) then
                replica.Take(target, bucket.Start, bucket.Length)

        if sharing.Sliced then exchange.ReduceScatter target else exchange.AllReduce target

    let reduceSlice (scratch: torch.Tensor) (replicas: Replica list) (bucket: Bucket) =
        let take (sum: torch.Tensor) =
            for replica in replicas do
                replica.Take(sum, bucket.Start, bucket.Length)

        Reduction.intoSlice state scratch take bucket

    let reduce (replicas: Replica list) (bucket: Bucket) : unit =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()

        match scratch with
        | Some scratch -> reduceSlice scratch replicas bucket
        | None -> reduceWhole replicas bucket

    let advance (block: int) =
        lock gate (fun () ->
            while begun < buckets.Length && buckets[begun].After >= block do
                // Named here, since the work begins when both may have moved on.
                let replicas, bucket = round, buckets[begun]
                waiting.Enqueue(exchange.Begin(fun () -> reduce replicas bucket))
                begun <- begun + 1)

    /// A round begins, in which these replicas are gone backward with.
    member _.Begin(replicas: Replica list) : unit =
        round <- replicas
        begun <- 0
        Array.Clear passes

    /// One of the round's backward passes has left a block, and all above it, whole.
    member _.Passed(block: int) : unit =
        if overlap && Interlocked.Increment(&passes[block]) = round.Length then
            advance block

    /// The round's backward passes are over: begins what is left, and waits for it all. Errors: those of the exchange.
    member _.Finish() : unit =
        advance -1

        while waiting.Count > 0 do
            waiting.Dequeue().Invoke()

    interface IDisposable with
        member _.Dispose() = scratch |> Option.iter _.Dispose()

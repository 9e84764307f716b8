/// Processes of a run, played by threads of one.
module Hybrid.Tests.Processes

open System
open System.Collections.Concurrent
open System.Threading
open Hybrid
open Hybrid.Api
open TorchSharp

/// What threads exchange: each lays its tensor down, all read, and sums go in the order of ranks.
type private Meeting(size: int) =
    let barrier = new Barrier(size)
    let tensors = Array.zeroCreate<torch.Tensor> size
    let numbers = Array.zeroCreate<float[]> size

    // A thread that fails would leave the others waiting for ever.
    let meet () =
        if not (barrier.SignalAndWait 20_000) then
            failwith "the other processes did not come."

    member _.Numbers(rank: int, values: float[]) : float[] =
        numbers[rank] <- values
        meet ()
        let sums = numbers |> Array.reduce (Array.map2 (+))
        meet ()
        sums

    member _.Tensors(rank: int, tensor: torch.Tensor, work: torch.Tensor[] -> unit, publish: unit -> unit) : unit =
        tensors[rank] <- tensor
        meet ()
        work tensors
        meet ()
        publish ()
        meet ()

/// The exchange of one rank. What is begun is carried out by a thread of its own, in order.
type private Threaded(meeting: Meeting, rank: int, size: int) =
    let work = new BlockingCollection<unit -> unit>()

    let thread =
        Thread(
            (fun () ->
                for item in work.GetConsumingEnumerable() do
                    item ()),
            IsBackground = true
        )

    do thread.Start()

    let slice (flat: torch.Tensor) (rank: int) =
        let struct (start, length) = Slices.range size rank (flat.numel ())
        flat.narrow (0L, start, length)

    let summed (part: torch.Tensor -> torch.Tensor) (all: torch.Tensor[]) =
        use _ = torch.no_grad ()
        let mutable sum = (part all[0]).``to``(torch.float64)

        for other in Array.tail all do
            sum <- sum.plus ((part other).``to`` torch.float64)

        sum

    let inScope (action: unit -> unit) =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        action ()

    interface IExchange with
        member _.Rank = rank
        member _.Size = size

        member _.AllReduce tensor =
            inScope (fun () ->
                let mutable sum = Unchecked.defaultof<torch.Tensor>
                meeting.Tensors(rank, tensor, (fun all -> sum <- summed id all), (fun () -> tensor.copy_ sum |> ignore)))

        member _.ReduceScatter tensor =
            inScope (fun () ->
                let mutable sum = Unchecked.defaultof<torch.Tensor>
                let own (t: torch.Tensor) = slice t rank

                meeting.Tensors(
                    rank,
                    tensor,
                    (fun all -> sum <- summed own all),
                    fun () ->
                        // What is not this process's own must not be read.
                        tensor.fill_ (Scalars.Of nan) |> ignore
                        (own tensor).copy_ sum |> ignore
                ))

        member _.AllGather tensor =
            inScope (fun () ->
                let mutable whole = Unchecked.defaultof<torch.Tensor>

                meeting.Tensors(
                    rank,
                    tensor,
                    (fun all -> whole <- torch.cat [| for other in 0 .. size - 1 -> slice all[other] other |]),
                    fun () -> tensor.copy_ whole |> ignore
                ))

        member _.Ready() = ()

        member _.Sum values = meeting.Numbers(rank, values)

        member _.Begin action =
            let finished = new ManualResetEventSlim()
            let mutable failure: exn | null = null

            work.Add(fun () ->
                try
                    action.Invoke()
                with error ->
                    failure <- error

                finished.Set())

            Action(fun () ->
                finished.Wait()

                match failure with
                | null -> ()
                | error -> raise (AggregateException(error)))

/// Runs `work` once for each of `size` processes side by side, and gives what they gave, in the order of ranks.
let side (size: int) (work: IExchange -> 'a) : 'a[] =
    if size = 1 then
        [| work Exchange.alone |]
    else
        let meeting = Meeting size
        let results = Array.zeroCreate<Result<'a, exn>> size

        let threads =
            [|
                for rank in 0 .. size - 1 do
                    let exchange = Threaded(meeting, rank, size) :> IExchange

                    Thread(fun () ->
                        results[rank] <-
                            try
                                Ok(work exchange)
                            with error ->
                                Error error)
            |]

        for thread in threads do
            thread.Start()

        for thread in threads do
            thread.Join()

        results
        |> Array.map (function
            | Ok result -> result
            | Error error -> raise (AggregateException(error)))

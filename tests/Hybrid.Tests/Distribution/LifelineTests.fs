module Hybrid.Tests.LifelineTests

open System
open System.Collections.Concurrent
open System.Diagnostics
open System.Net
open System.Net.Sockets
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Distribution

let private patience (silence: float) (timeout: float) = Patience(TimeSpan.FromSeconds silence, TimeSpan.FromSeconds timeout)
let private token = [| 1uy .. 32uy |]

/// A run of processes within this one: what each was told.
type private Run(size: int, silence: float, timeout: float) =
    let told = ConcurrentDictionary<int, string>()
    let positions = Array.create size (Position(7L, 1L))
    let failed rank = Failed(fun _ sentence _ _ -> told[rank] <- sentence)
    let patience = patience silence timeout

    let server =
        LifelineServer.Open(
            IPEndPoint(IPAddress.Loopback, 0),
            token,
            [| 42uy |],
            Member(0, size, "first", 100),
            patience,
            (fun () -> positions[0]),
            failed 0
        )

    let clients =
        [|
            for rank in 1 .. size - 1 ->
                LifelineClient.Connect(
                    server.Place,
                    token,
                    Member(rank, size, $"host{rank}", 100 + rank),
                    patience,
                    TimeSpan.FromSeconds 10.0,
                    (fun () -> positions[rank]),
                    failed rank
                )
        |]

    do server.WaitForAll(TimeSpan.FromSeconds 10.0, CancellationToken.None)

    member _.Server = server
    member _.Client(rank: int) = clients[rank - 1]
    member _.Told = told
    member _.Positions = positions

    member _.Within(seconds: float, condition: unit -> bool) : bool =
        let clock = Stopwatch.StartNew()

        while not (condition ()) && clock.Elapsed.TotalSeconds < seconds do
            Thread.Sleep 10

        condition ()

    interface IDisposable with
        member _.Dispose() =
            for client in clients do
                client.Dispose()

            server.Dispose()

let private dead =
    testCase "a process that ends without a word is named to all others" (fun () ->
        use run = new Run(4, 20.0, 600.0)
        run.Positions[2] <- Position(17L, 5L)
        // Its step has to have been heard of.
        Thread.Sleep 1200
        run.Client(2).Cut()

        Expect.isTrue
            (run.Within(5.0, fun () -> run.Told.ContainsKey 0 && run.Told.ContainsKey 1 && run.Told.ContainsKey 3))
            "told"

        for rank in [ 0; 1; 3 ] do
            Expect.equal run.Told[rank] "rank 2 (host2, process 102) ended without a word, after step 17" $"{rank}")

let private first =
    testCase "when the first process ends, each of the others learns it by itself" (fun () ->
        use run = new Run(3, 20.0, 600.0)
        run.Server.Dispose()
        Expect.isTrue (run.Within(5.0, fun () -> run.Told.ContainsKey 1 && run.Told.ContainsKey 2)) "told"
        Expect.stringStarts run.Told[1] "rank 0 (first, process 100) ended without a word" "sentence")

let private reason =
    testCase "a process that has to stop says why, and one that comes to its end says nothing" (fun () ->
        use run = new Run(3, 20.0, 600.0)
        run.Client(2).Bye ""
        run.Client(1).Bye "the disk is full."
        Expect.isTrue (run.Within(5.0, fun () -> run.Told.ContainsKey 0)) "told"
        Expect.equal run.Told[0] "rank 1 (host1, process 101) stopped: the disk is full." "sentence")

let private late =
    testCase "one that keeps the others waiting is named, and nobody while calls go on" (fun () ->
        use run = new Run(3, 20.0, 0.8)
        let go = Stopwatch.StartNew()

        while go.Elapsed.TotalSeconds < 1.6 do
            // All go on, one always a call behind.
            for rank in 0..2 do
                run.Positions[rank] <- Position(1L, int64 go.ElapsedMilliseconds + (if rank = 1 then 0L else 1L))

            Thread.Sleep 20

        Expect.isEmpty run.Told "going on"
        run.Positions[1] <- Position(3L, 1L)
        Expect.isTrue (run.Within(15.0, fun () -> run.Told.ContainsKey 0 && run.Told.ContainsKey 2)) "told"
        Expect.stringStarts run.Told[2] "rank 1 (host1, process 101) has kept the others waiting" "sentence")

let private silent =
    testCase "one of whom nothing is heard is named, though its connection stands" (fun () ->
        let told = ConcurrentQueue<string>()

        use server =
            LifelineServer.Open(
                IPEndPoint(IPAddress.Loopback, 0),
                token,
                [||],
                Member(0, 2, "first", 1),
                patience 0.5 600.0,
                (fun () -> Position(1L, 1L)),
                fun _ sentence _ _ -> told.Enqueue sentence
            )

        // A process that greets and then is stopped.
        use client = new TcpClient()
        client.Connect server.Place
        let stream = client.GetStream()
        let struct (_, challenge) = LifelineFrames.Read stream
        let nonce, who = Array.zeroCreate<byte> 16, Member(1, 2, "second", 2).ToBytes()
        let proof = LifelineFrames.Proof(token, "member", ReadOnlySpan [| challenge; nonce; who |])
        LifelineFrames.Write(stream, LifelineKind.Hello, ReadOnlySpan(Array.concat [ nonce; proof; who ]))
        let clock = Stopwatch.StartNew()

        while told.IsEmpty && clock.Elapsed.TotalSeconds < 10.0 do
            Thread.Sleep 20

        Expect.stringStarts (Seq.head told) "rank 1 (second, process 2) has not been heard of for" "sentence")

let private strangers =
    testCase "who does not know the token is not let in, and does not disturb" (fun () ->
        use run = new Run(2, 20.0, 600.0)
        use stranger = new TcpClient()
        stranger.Connect run.Server.Place
        stranger.GetStream().Write(ReadOnlySpan(Array.create 4096 255uy))

        let other = Array.create 32 9uy

        Expect.throws
            (fun () ->
                use client =
                    LifelineClient.Connect(
                        run.Server.Place,
                        other,
                        Member(1, 2, "x", 1),
                        patience 20.0 600.0,
                        TimeSpan.FromSeconds 0.3,
                        (fun () -> Position()),
                        fun _ _ _ _ -> ()
                    )

                ())
            "another token"

        Expect.isTrue (run.Server.Place.Address.Equals IPAddress.Loopback) "it listens where it was told to"
        Expect.isEmpty run.Told "nobody is disturbed")

let private numbers =
    testCase "numbers are summed over all, call by call" (fun () ->
        use run = new Run(4, 20.0, 600.0)
        Expect.equal (run.Client 1).Handed [| 42uy |] "handed"

        let sums =
            Array.Parallel.init 4 (fun rank ->
                [|
                    for call in 1..20 ->
                        let values = [| float (rank * call); 1.0 |]
                        if rank = 0 then run.Server.Sum values else run.Client(rank).Sum values
                |])

        for rank in 0..3 do
            for call in 1..20 do
                let found = sums[rank][call - 1]
                Expect.equal found [| float (6 * call); 4.0 |] $"{rank}, {call}")

let tests = testSequenced (testList "Lifeline" [ dead; first; reason; late; silent; strangers; numbers ])

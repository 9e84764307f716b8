/// Drawing batches of sequences with cached keys and values: the loops, one token a pass or several.
module internal Hybrid.SamplerLoop

// Host tensors are read by address.
#nowarn "9"

open System
open System.Buffers
open System.Threading
open Microsoft.FSharp.NativeInterop
open TorchSharp
open Hybrid.Draw

/// What the sequences of a batch have in common.
[<NoEquality; NoComparison>]
type Task =
    {
        Prepared: Prepared
        Place: Place
        Sampling: Sampling
        /// The id of the first column of logits
        First: int64
        Count: int
        /// The column that ends a sequence
        Stop: int option
        /// The prompt that guidance steers away from
        Unconditional: int64[] option
        /// Told how many tokens were drawn
        Tick: int -> unit
    }

/// The rows of guided logits, conditional ones first: u + g·(c − u).
let private guided (task: Task) (logits: torch.Tensor) : torch.Tensor =
    if task.Unconditional.IsNone then
        logits
    else
        let half = logits.shape[0] / 2L
        let logits = logits.``to`` torch.float32
        let c, u = logits.narrow (0, 0L, half), logits.narrow (0, half, half)
        u.plus (c.sub(u).mul(Scalars.Of task.Sampling.Guidance))

let private rule (sampling: Sampling) : HostDraw.Rule =
    {
        HostDraw.Rule.Temperature = sampling.Temperature
        TopK = Option.defaultValue 0 sampling.TopK
        TopP = Option.defaultValue 1.0 sampling.TopP
    }

/// Draws from some lines of logits in host memory, a uniform value each.
let private pickHere (task: Task) (logits: torch.Tensor) (lines: int[]) (uniforms: float[]) (drawn: int[]) : unit =
    let half = (logits.dtype = torch.bfloat16)
    let shape = logits.shape
    let columns, size = int shape[1], HostLanes.size half
    let room = HostDraw.room columns
    let buffer = ArrayPool<float32>.Shared.Rent(3 * room)
    use pinned = fixed buffer
    let x, weights, free = pinned, NativePtr.add pinned room, NativePtr.add pinned (2 * room)
    let source = Dispatcher.dataPointer logits
    let place (line: int) = source + nativeint line * nativeint (columns * size)
    let rule, guidance = rule task.Sampling, float32 task.Sampling.Guidance

    for i in 0 .. lines.Length - 1 do
        HostLanes.read half (place (lines[i])) x columns

        if task.Unconditional.IsSome then
            HostLanes.read half (place (lines[i] + int shape[0] / 2)) free columns

            for i in 0 .. columns - 1 do
                let u = NativePtr.get free i
                NativePtr.set x i (u + guidance * (NativePtr.get x i - u))

        drawn[i] <- HostDraw.token rule (uniforms[i]) columns x weights

    ArrayPool<float32>.Shared.Return buffer

/// Draws from some lines of logits, a uniform value each, to host memory.
let private pick (task: Task) (logits: torch.Tensor) (lines: int[]) (uniforms: float[]) : int[] =
    if task.Place = HostMemory then
        let drawn = Array.zeroCreate lines.Length
        pickHere task logits lines uniforms drawn
        drawn
    else
        use scope = torch.NewDisposeScope()
        let logits = guided task logits
        let chosen = (Host.int64s [ int64 lines.Length ] (Array.map int64 lines)).``to`` logits.device
        let drawn = draw task.Sampling uniforms (logits.index_select (0L, chosen))
        drawn.cpu().data<int64>().ToArray() |> Array.map int

/// New tokens of rows as the model reads them, behind the conditional rows the same for the unconditional ones: [N T].
let private reading (task: Task) (columns: int[]) : torch.Tensor =
    let ids = columns |> Array.map (fun column -> task.First + int64 column)
    let all = if task.Unconditional.IsSome then Array.append ids ids else ids
    (Host.int64s [ int64 all.Length ] all).``to`` task.Prepared.Device

let private twice (task: Task) (values: 'a[]) = if task.Unconditional.IsSome then Array.append values values else values

/// One token of every row a pass, with no reads from the device but, now and then, for the stop.
let private onDevice (task: Task) (attending: Attending) (uniforms: float[][]) (first: torch.Tensor) : int[][] * int64 =
    use outer = torch.NewDisposeScope()
    let rows, device = uniforms.Length, task.Prepared.Device
    let between = 16

    let table =
        let values =
            [|
                for position in 0 .. task.Count - 1 do
                    for row in uniforms -> row[position]
            |]

        torch.tensor(values, dtype = torch.float64).reshape([| int64 task.Count; int64 rows |]).``to`` device

    let drawn = ResizeArray<torch.Tensor>()
    let read (from: int) = torch.stack(drawn.GetRange(from, drawn.Count - from).ToArray(), 1L).cpu().data<int64>().ToArray()
    let ones = Array.create attending.Rows 1
    let ended = Array.create rows task.Stop.IsNone
    let mutable logits = first.alias ()
    let mutable running = task.Count > 0

    while running do
        use scope = torch.NewDisposeScope()
        let column = drawWith task.Sampling (table.select (0L, int64 drawn.Count)) (guided task logits)
        drawn.Add(column.MoveToOuterDisposeScope())
        logits.Dispose()
        task.Tick rows

        if task.Stop.IsSome && drawn.Count % between = 0 then
            let last = read (drawn.Count - between) |> Array.chunkBySize between

            for row in 0 .. rows - 1 do
                ended[row] <- ended[row] || Array.contains (int64 task.Stop.Value) last[row]

        running <- drawn.Count < task.Count && (task.Stop.IsNone || Array.contains false ended)

        if running then
            let ids = column.plus task.First
            let tokens = if task.Unconditional.IsSome then torch.cat ([| ids; ids |], 0L) else ids
            logits <- (task.Prepared.Read(attending, tokens, 1, ones, None)).MoveToOuterDisposeScope()
            attending.Grow ones

    let tokens =
        if drawn.Count = 0 then
            Array.create rows [||]
        else
            read 0 |> Array.map int |> Array.chunkBySize drawn.Count

    let upToStop (row: int[]) =
        match task.Stop with
        | Some stop -> row |> Array.takeWhile ((<>) stop)
        | None -> row

    tokens |> Array.map upToStop, int64 (max 0 (drawn.Count - 1))

/// One token of every row a pass, all in host memory. What a step needs stands ready: a step makes no arrays.
let private onHost (task: Task) (attending: Attending) (uniforms: float[][]) (first: torch.Tensor) : int[][] * int64 =
    let rows, all = uniforms.Length, attending.Rows
    let tokens = Array.init rows (fun _ -> Array.zeroCreate<int> task.Count)
    // How many tokens of each row are known, and whether more come.
    let known, running = Array.zeroCreate<int> rows, Array.create rows (task.Count > 0)
    let lines, drawn, chances = Array.init rows id, Array.zeroCreate<int> rows, Array.zeroCreate<float> rows
    let needed = Array.create all 1
    use ids = torch.zeros([| int64 all |], dtype = torch.int64).DetachFromDisposeScope()
    let places = NativePtr.ofNativeInt<int64>(Dispatcher.dataPointer ids)
    let stop = Option.defaultValue -1 task.Stop
    let mutable logits = first.alias ()
    let mutable position, left = 0, (if task.Count > 0 then rows else 0)

    while left > 0 do
        for row in 0 .. rows - 1 do
            chances[row] <- uniforms[row][position]

        pickHere task logits lines chances drawn
        logits.Dispose()
        let before = left

        for row in 0 .. rows - 1 do
            if running[row] then
                if drawn[row] <> stop then
                    tokens[row][position] <- drawn[row]
                    known[row] <- position + 1

                if drawn[row] = stop || position + 1 = task.Count then
                    running[row] <- false
                    left <- left - 1

        task.Tick before
        position <- position + 1

        if left > 0 then
            for line in 0 .. all - 1 do
                NativePtr.set places line (task.First + int64 drawn[line % rows])
                needed[line] <- if running[line % rows] then 1 else 0

            logits <- task.Prepared.Read(attending, ids, 1, needed, None)
            attending.Grow needed

    tokens |> Array.mapi (fun row tokens -> Array.truncate known[row] tokens), int64 (max 0 (position - 1))

/// W positions of every row a pass, in host memory (Song et al. 2021, Jacobi iteration, here with the uniform value of each position
/// fixed). The first token of a row was drawn; the others are guesses. Each position is drawn from what the pass gives it: that is the
/// right draw as long as all guesses before it were right, so at least one more token of each row is known after a pass.
let private ahead (task: Task) (attending: Attending) (uniforms: float[][]) (first: torch.Tensor) : int[][] * int64 =
    let rows, width = uniforms.Length, max 1 task.Sampling.Lookahead
    let known = Array.init rows (fun _ -> ResizeArray<int>())
    let ended = Array.create rows (task.Count = 0)
    let beyond = Array.zeroCreate<int[]> rows
    let uniform row place = if place < task.Count then uniforms[row][place] else 0.5

    // Takes a row's drawn tokens as known, up to the stop.
    let accept (row: int) (tokens: int seq) =
        for token in tokens do
            if not ended[row] then
                if task.Stop = Some token then
                    ended[row] <- true
                else
                    known[row].Add token
                    ended[row] <- known[row].Count = task.Count

    // A guess is the draw of its place from the last distribution of its row.
    let guesses (logits: torch.Tensor) (line: int -> int) (row: int) (place: int) (count: int) =
        if count = 0 || ended[row] then
            Array.zeroCreate count
        else
            pick task logits (Array.create count (line row)) (Array.init count (fun i -> uniform row (place + i)))

    if task.Count > 0 then
        pick task first [| 0 .. rows - 1 |] (Array.init rows (fun row -> uniform row 0))
        |> Array.iteri (fun row token ->
            accept row [ token ]
            beyond[row] <- guesses first id row 1 (width - 1))

        task.Tick rows

    let mutable passes = 0L

    while Array.contains false ended do
        use scope = torch.NewDisposeScope()

        let needed = Array.init rows (fun row -> if ended[row] then 0 else min width (task.Count - known[row].Count))

        let fed =
            Array.init rows (fun row ->
                let last = if known[row].Count > 0 then known[row][known[row].Count - 1] else 0
                Array.append [| last |] beyond[row])

        let tokens = reading task (Array.concat fed)
        let logits = task.Prepared.Read(attending, tokens, width, twice task needed, None)
        passes <- passes + 1L

        let lines =
            [|
                for row in 0 .. rows - 1 do
                    for i in 0 .. needed[row] - 1 -> struct (row, i)
            |]

        let drawn =
            pick
                task
                logits
                (lines |> Array.map (fun struct (row, i) -> row * width + i))
                (lines |> Array.map (fun struct (row, i) -> uniform row (known[row].Count + i)))

        let grown = Array.zeroCreate<int> rows
        let mutable place = 0

        for row in 0 .. rows - 1 do
            let count = needed[row]

            if count > 0 then
                let own = drawn[place .. place + count - 1]
                let mutable right = 1

                while right < count && beyond[row][right - 1] = own[right - 1] do
                    right <- right + 1

                accept row own[.. right - 1]
                grown[row] <- right
                let left = own[right..]

                let further =
                    guesses
                        logits
                        (fun row -> row * width + count - 1)
                        row
                        (known[row].Count + left.Length)
                        (width - 1 - left.Length)

                beyond[row] <- Array.append left further
                place <- place + count

        attending.Grow(twice task grown)
        task.Tick(Array.sum grown)

    known |> Array.map _.ToArray(), passes

/// Draws `Count` tokens behind each prompt, or as many as come before the stop.
let together (task: Task) (numbers: int64[]) (prompts: int64[][]) : int[][] * int64 =
    use _ = torch.inference_mode ()
    use _ = torch.NewDisposeScope()

    let all =
        match task.Unconditional with
        | Some prompt -> Array.append prompts (Array.replicate prompts.Length prompt)
        | None -> prompts

    let lengths = all |> Array.map Array.length
    let longest = Array.max lengths
    let padded = all |> Array.collect (fun prompt -> Array.append prompt (Array.zeroCreate (longest - prompt.Length)))
    let device = task.Prepared.Device
    let tokens = (Host.int64s [ int64 padded.Length ] padded).``to`` device
    let ends = lengths |> Array.mapi (fun row length -> int64 (row * longest + length - 1))
    let ends = (Host.int64s [ int64 ends.Length ] ends).``to`` device

    let uniforms = numbers |> Array.map (fun number -> Array.init task.Count (uniform task.Sampling.Seed number))

    use attending = task.Prepared.Start(all.Length, longest, longest + task.Count + max 1 task.Sampling.Lookahead)
    let first = task.Prepared.Read(attending, tokens, longest, lengths, Some ends)
    attending.Grow lengths

    if task.Sampling.Lookahead > 1 then ahead task attending uniforms first
    elif task.Place = Tensors then onDevice task attending uniforms first
    else onHost task attending uniforms first

/// Until this is disposed, torch has one thread for this one, where `wanted`.
let alone (wanted: bool) : IDisposable =
    let threads = torch.get_num_threads ()

    if wanted then
        torch.set_num_threads 1

    { new IDisposable with
        member _.Dispose() =
            if wanted then
                torch.set_num_threads threads
    }

/// Does the parts of a work on as many threads, the first on this one, each with one thread of torch's own. A part is given what says
/// that another has failed and there is no use in going on.
let share (parts: int) (work: int -> (unit -> unit) -> unit) : unit =
    let failure: (exn | null) ref = ref null

    let stopWhenFailed () =
        if not (isNull failure.Value) then
            raise (OperationCanceledException())

    if parts = 1 then
        work 0 ignore
    else
        let threads = torch.get_num_threads ()

        let part (i: int) =
            torch.set_num_threads 1

            try
                work i stopWhenFailed
            with e ->
                Interlocked.CompareExchange(&failure.contents, e, null) |> ignore

        try
            let others = [| for i in 1 .. parts - 1 -> Thread((fun () -> part i), 64 <<< 20) |]
            others |> Array.iter _.Start()
            part 0
            others |> Array.iter _.Join()
        finally
            torch.set_num_threads threads

        match failure.Value with
        | null -> ()
        | failure -> Runtime.ExceptionServices.ExceptionDispatchInfo.Throw failure

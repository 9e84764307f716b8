/// The C# door to alignment.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// What one step of alignment gave.
[<Struct>]
type AlignmentStep =
    {
        /// Contrastive loss before the update
        Loss: float
        /// Scale of the cosines after it, exp of the log scale
        Temperature: float
        /// Share of pictures whose own caption is nearest, before the update
        Accuracy: float
    }

/// How alignment learns: Adam without decay, on one device.
[<Sealed>]
type AlignerOptions() =
    /// Adam's, without a schedule.
    member val LearningRate = 0.01 with get, set
    /// Decay of Adam's first moment, in [0, 1).
    member val Beta1 = 0.9 with get, set
    /// Decay of Adam's second moment, in [0, 1).
    member val Beta2 = 0.98 with get, set
    /// Adam's, beside the root of the second moment.
    member val Epsilon = 1e-6 with get, set
    /// Where tables and moments are.
    member val Device: torch.Device = torch.CPU with get, set
    /// From this process's features to those of all, `Alignment.Gather`; null with one process.
    member val Gather: Func<torch.Tensor, torch.Tensor> | null = null with get, set

/// A text row near to an image row.
[<Struct>]
type Neighbour =
    {
        /// The text row
        Id: int
        /// In [−1, 1]
        Cosine: float
    }

/// How well pairs find each other by the cosines of their bags of words: each value is over all pairs, 1 where its own partner is
/// found, and a share where partners that are as near leave it to chance.
type Retrieval =
    {
        /// How many pairs were searched
        Pairs: int
        /// Own caption the nearest of all captions, with its 95 % interval over pairs
        PictureToText: Statistics.Interval
        /// Own picture the nearest of all pictures
        TextToPicture: Statistics.Interval
        /// The same among the nearest five
        PictureToTextAt5: float
        /// Own picture among the nearest five
        TextToPictureAt5: float
    }

    /// What guessing gives.
    member r.Chance = 1.0 / float r.Pairs

    /// What guessing five different ones gives.
    member r.ChanceAt5 = Math.Min(1.0, 5.0 / float r.Pairs)

/// Contrastive alignment of an image table with a frozen text table. Dispose it to release both.
[<Sealed>]
type Aligner
    /// Copies of a text table [V, D], which stays, and of an image table [R, D], which moves. Errors: ShapeException for widths that
    /// differ.
    (texts_VD: torch.Tensor, images_RD: torch.Tensor, options: AlignerOptions) =
    // Values of steps that nobody has asked for stay on the device, so many at a time.
    let waiting = 256

    let store =
        Parameters.allocate
            Fp32
            options.Device
            Parameters.Matrices
            (fun _ -> Moves)
            (Alignment.parameters images_RD.shape[0] images_RD.shape[1])

    let texts = texts_VD.detach().``to``(torch.float32, options.Device, copy = true).DetachFromDisposeScope()
    let state = new OptimizerState(store)

    let gather: Alignment.Gather =
        match options.Gather with
        | null -> id
        | gather -> gather.Invoke

    let optimizer =
        {
            Betas = (options.Beta1, options.Beta2)
            Epsilon = options.Epsilon
            WeightDecay = 0.0
            Decay = Parameters.Matrices
            ClipNorm = None
        }

    let queued =
        torch.zeros([| int64 waiting; 3L |], dtype = torch.float32, device = options.Device).DetachFromDisposeScope()

    let finished = List<AlignmentStep>()
    let mutable count = 0

    let fetch () =
        if count > 0 then
            use _ = torch.NewDisposeScope()
            let values = queued.narrow(0L, 0L, int64 count).cpu().contiguous().data<float32>().ToArray()

            for i in 0 .. count - 1 do
                finished.Add
                    {
                        Loss = float values[3 * i]
                        Temperature = float values[3 * i + 1]
                        Accuracy = float values[3 * i + 2]
                    }

            count <- 0

    do
        if texts_VD.shape[1] <> images_RD.shape[1] then
            raise (
                ShapeException
                    $"text embeddings of width {texts_VD.shape[1]} and image embeddings of width {images_RD.shape[1]} cannot be compared."
            )

        Parameters.set store "image_embeddings" images_RD
        Alignment.initialiseScale store

    /// Rows of the text table.
    member _.TextRows = int texts.shape[0]

    /// Rows of the image table.
    member _.Codes = int images_RD.shape[0]

    /// Queues one step on matching pairs; a GPU may still be at work when this returns. Errors: InputException for an empty caption
    /// or an id outside its table.
    member _.Step(captions: IReadOnlyList<int[]>, codes: IReadOnlyList<int[]>) : unit =
        use _ = torch.NewDisposeScope()
        let bags = Alignment.bagOfWords texts (Seq.toArray captions)
        let value = Alignment.step gather optimizer options.LearningRate store state bags (Seq.toArray codes)
        let scale = store.Weights("log_scale").detach().exp().squeeze()
        let row = torch.stack [| value.Loss; scale; value.Accuracy |]
        queued.narrow(0L, int64 count, 1L).copy_(row.unsqueeze 0L) |> ignore
        count <- count + 1

        if count = waiting then
            fetch ()

    /// What the steps gave since the last call, in their order. Waits until they are done.
    member _.Read() : AlignmentStep[] =
        fetch ()
        let steps = finished.ToArray()
        finished.Clear()
        steps

    /// Steps whose gradient was not finite, and which therefore changed nothing.
    member _.Skipped: int64 =
        use _ = torch.NewDisposeScope()
        int64 (state.Skipped.cpu().data<float32>().[0L])

    /// The image table so far, [R, D], in host memory; the caller owns the copy.
    member _.Images: torch.Tensor =
        use _ = torch.NewDisposeScope()
        let copy = store.MasterOf("image_embeddings").``to``(torch.float32, torch.CPU, copy = true)
        copy.MoveToOuterDisposeScope()

    /// The `count` text rows nearest to each image row by cosine.
    member _.Nearest(count: int) : int[][] =
        use _ = torch.NewDisposeScope()
        let ids, _ = Alignment.nearest count (store.MasterOf "image_embeddings") texts
        ids.cpu().contiguous().data<int64>().ToArray() |> Array.map int |> Array.chunkBySize count

    /// The `count` nearest of some text rows (`among`; null: of all) to each of some codes, the nearest first.
    member aligner.NearestTo(codes: IReadOnlyList<int>, count: int, among: IReadOnlyList<int> | null) : Neighbour[][] =
        use _ = torch.NewDisposeScope()

        let rows (ids: IReadOnlyList<int>) =
            (Host.int64s [ int64 ids.Count ] (ids |> Seq.map int64 |> Seq.toArray)).``to`` options.Device

        let images = store.MasterOf("image_embeddings").index_select(0L, rows codes)

        let candidates, idOf =
            match among with
            | null -> texts, id
            | among -> texts.index_select (0L, rows among), (fun place -> among[place])

        let count = min count (int candidates.shape[0])

        if codes.Count = 0 || count = 0 then
            [| for _ in codes -> [||] |]
        else
            let ids, cosines = Alignment.nearest count images candidates
            let ids = ids.cpu().contiguous().data<int64>().ToArray()
            let cosines = cosines.cpu().contiguous().data<float32>().ToArray()

            Array.map2 (fun place cosine -> { Id = idOf (int place); Cosine = float cosine }) ids cosines
            |> Array.chunkBySize count

    /// How well pairs find each other. Errors: InputException for an empty caption or an id outside its table.
    member _.Retrieve(captions: IReadOnlyList<int[]>, codes: IReadOnlyList<int[]>, seed: int64) : Retrieval =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()

        // Bags of a few hundred pictures at a time: a list of all their tokens may be as large as the data.
        let bags (table: torch.Tensor) (all: IReadOnlyList<int[]>) =
            torch.cat ([| for some in Seq.chunkBySize 256 all -> Alignment.bagOfWords table some |], 0L)

        let pictures, texts = bags (store.MasterOf "image_embeddings") codes, bags texts captions
        let toText, toPicture = Alignment.ranks pictures texts, Alignment.ranks texts pictures

        let interval name (ranks: Alignment.Rank[]) =
            let stream = Random.ofSeed seed |> Random.named "retrieval" |> Random.named name
            Statistics.bootstrapMean stream 1000 (ranks |> Array.map (Alignment.found 1))

        {
            Pairs = captions.Count
            PictureToText = interval "picture to text" toText
            TextToPicture = interval "text to picture" toPicture
            PictureToTextAt5 = toText |> Array.averageBy (Alignment.found 5)
            TextToPictureAt5 = toPicture |> Array.averageBy (Alignment.found 5)
        }

    interface IDisposable with
        member _.Dispose() =
            (state :> IDisposable).Dispose()
            (store :> IDisposable).Dispose()
            queued.Dispose()
            texts.Dispose()

/// Tables for alignment, and counts of what goes with what.
[<AbstractClass; Sealed>]
type AlignmentTables private () =

    /// open_lm's truncated normal rows [codes, width], as new image rows start; the caller owns them.
    static member Initial(codes: int, width: int, seed: int64) : torch.Tensor =
        use _ = torch.NewDisposeScope()

        use store =
            Parameters.allocate
                Fp32
                torch.CPU
                Parameters.Matrices
                (fun _ -> Stays)
                (Alignment.parameters (int64 codes) (int64 width))

        Parameters.initialise (Random.ofSeed seed) store
        store.MasterOf("image_embeddings").clone().MoveToOuterDisposeScope()

    /// Random rows in the place of a text table's, as large on the whole as its own; the caller owns them.
    static member RandomTexts(texts_VD: torch.Tensor, seed: int64) : torch.Tensor =
        use _ = torch.NewDisposeScope()
        let size = texts_VD.``to``(torch.float32).square().mean().sqrt().cpu().data<float32>().[0L]
        let stream = Random.ofSeed seed |> Random.named "random text embeddings"

        (Alignment.randomTexts stream (float size) (int texts_VD.shape[0]) (int texts_VD.shape[1])).MoveToOuterDisposeScope()

    /// `Alignment.association`.
    static member Association(both: int64, a: int64, b: int64, total: int64) : float =
        Alignment.association (float both) (float a) (float b) (float total)

    /// Whose caption the control with shuffled captions gives to pair `index` of `count`: always the same one, so that it can be
    /// learnt by heart as well as the true ones can.
    static member OtherCaption(count: int64, seed: int64, index: int64) : int64 =
        Random.permuted count (Random.ofSeed seed |> Random.named "shuffled captions") index

    /// Which of some pictures, known by the hash of their codes, are held out: the `count` with the smallest draws.
    static member HeldOut(hashes: IReadOnlyCollection<uint64>, count: int, seed: int64) : IReadOnlySet<uint64> =
        let stream = Random.ofSeed seed |> Random.named "held-out pairs"

        hashes
        |> Seq.distinct
        |> Seq.map (fun hash -> struct (Random.bits stream (int64 hash), hash))
        |> Seq.sort
        |> Seq.truncate count
        |> Seq.map (fun struct (_, hash) -> hash)
        |> HashSet
        :> IReadOnlySet<uint64>

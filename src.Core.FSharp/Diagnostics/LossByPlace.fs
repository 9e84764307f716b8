/// The loss by where its targets stand: in the picture, in the caption, and by the length of the caption. Everything is a sum beside a
/// count, as in `Loss`, so that places add up to what `Loss` has.
namespace Hybrid

open System
open TorchSharp

/// Where a token stands in its sequence.
[<Struct>]
type TokenPlace =
    {
        /// What it is
        Kind: Kind
        /// Of a text or image token: how many of its kind stand before it without anything between. Of a mark: which of the six.
        /// Of padding: 0
        Place: int
        /// Of a text token: the tokens of its own caption. Of an image token: those of its document's caption before it, 0 without
        /// one. Of others: 0
        Caption: int
    }

/// Losses of targets by place: entry i is over those at place i. Sums are in nats and add over batches.
[<CustomEquality; NoComparison>]
type PlaceSums =
    {
        /// Targets
        Count: int64[]
        /// Σ −log p over the whole vocabulary
        Full: float[]
        /// Σ −log p among the ids of the target's own kind
        Within: float[]
    }

    member private s.Means(sums: float[]) : float[] =
        Array.map2 (fun (sum: float) count -> if count = 0L then nan else sum / float count) sums s.Count

    /// Targets at all places.
    member s.Targets: int64 = Array.sum s.Count

    /// Mean −log p over the whole vocabulary, in nats; nan where nothing stands.
    member s.Loss: float[] = s.Means s.Full

    /// Mean −log p among the ids of the target's own kind, in nats; nan where nothing stands.
    member s.WithinLoss: float[] = s.Means s.Within

    /// Mean −log of the probability that is given to the right kind, in nats: loss less within-modality loss. nan where nothing stands.
    member s.Leak: float[] = Array.map2 (-) s.Loss s.WithinLoss

    override s.Equals(other: obj | null) : bool =
        match other with
        | :? PlaceSums as o -> s.Count = o.Count && s.Full = o.Full && s.Within = o.Within
        | _ -> false

    override s.GetHashCode() : int = hash s.Count

    /// Place by place; the longer of the two decides how many there are.
    static member (+)(a: PlaceSums, b: PlaceSums) : PlaceSums =
        let inline sum (x: 'n[]) (y: 'n[]) =
            Array.init (max x.Length y.Length) (fun i ->
                (if i < x.Length then x[i] else LanguagePrimitives.GenericZero)
                + (if i < y.Length then y[i] else LanguagePrimitives.GenericZero))

        { Count = sum a.Count b.Count; Full = sum a.Full b.Full; Within = sum a.Within b.Within }

/// Losses by place of everything that counts.
type LossPlaces =
    {
        /// By place in the picture, in raster order; as many places as the longest picture has
        Image: PlaceSums
        /// By row of the picture; none where the grid is not known
        ImageRows: PlaceSums
        /// By column of the picture; none where the grid is not known
        ImageColumns: PlaceSums
        /// By place in the caption
        Text: PlaceSums
        /// By mark: <doc>, </doc>, <text>, </text>, <image>, </image>
        Marks: PlaceSums
        /// The lengths of captions at which each bucket but the first begins
        CaptionEdges: int[]
        /// Text targets by the length of their caption
        TextByCaption: PlaceSums
        /// Image targets by the length of their caption
        ImageByCaption: PlaceSums
    }

    /// Sums over both. Errors: ArgumentException when their captions are in other buckets.
    static member (+)(a: LossPlaces, b: LossPlaces) : LossPlaces =
        if a.CaptionEdges <> b.CaptionEdges then
            invalidArg (nameof b) "sums of other buckets of captions do not add."

        {
            Image = a.Image + b.Image
            ImageRows = a.ImageRows + b.ImageRows
            ImageColumns = a.ImageColumns + b.ImageColumns
            Text = a.Text + b.Text
            Marks = a.Marks + b.Marks
            CaptionEdges = a.CaptionEdges
            TextByCaption = a.TextByCaption + b.TextByCaption
            ImageByCaption = a.ImageByCaption + b.ImageByCaption
        }

/// How targets are sorted into places.
type PlacePlan =
    {
        /// Rows and columns of a picture's codes, or (0, 0) where they are not known
        Grid: struct (int * int)
        /// The lengths of captions at which each bucket but the first begins, growing
        CaptionEdges: int[]
    }

/// Losses by where a target stands in its caption or picture.
module LossByPlace =

    let private none: PlaceSums = { Count = [||]; Full = [||]; Within = [||] }

    /// Nothing yet.
    let empty (plan: PlacePlan) : LossPlaces =
        {
            Image = none
            ImageRows = none
            ImageColumns = none
            Text = none
            Marks = none
            CaptionEdges = plan.CaptionEdges
            TextByCaption = none
            ImageByCaption = none
        }

    /// Where each token of a sequence stands, the first too.
    let places (vocabulary: Vocabulary) (sequence: int64[]) : TokenPlace[] =
        let result = Array.zeroCreate<TokenPlace> sequence.Length
        let doc = if vocabulary.ImageCodes > 0 then int64 vocabulary.Doc else -1L
        let mutable caption = 0
        let mutable first = 0

        while first < sequence.Length do
            let kind = Vocabulary.kind vocabulary sequence[first]
            let mutable next = first + 1

            match kind with
            | Kind.Text
            | Kind.Image ->
                while next < sequence.Length && Vocabulary.kind vocabulary sequence[next] = kind do
                    next <- next + 1

                if kind = Kind.Text then
                    caption <- next - first

                for t in first .. next - 1 do
                    result[t] <- { Kind = kind; Place = t - first; Caption = caption }
            | Kind.Structure ->
                if sequence[first] = doc then
                    caption <- 0

                result[first] <- { Kind = kind; Place = int (sequence[first] - doc); Caption = 0 }
            | _ -> result[first] <- { Kind = kind; Place = 0; Caption = 0 }

            first <- next

        result

    /// The lengths of the captions of a sequence, which may have several documents.
    let captionLengths (vocabulary: Vocabulary) (sequence: int64[]) : int[] =
        places vocabulary sequence
        |> Array.filter (fun token -> token.Kind = Kind.Text && token.Place = 0)
        |> Array.map _.Caption

    /// The codes of the longest picture of some sequences; 0 where there is none.
    let longestPicture (vocabulary: Vocabulary) (sequences: int64[] seq) : int =
        sequences
        |> Seq.collect (places vocabulary)
        |> Seq.fold (fun longest token -> if token.Kind = Kind.Image then max longest (token.Place + 1) else longest) 0

    /// Where to cut so that about as many lengths fall into each of so many buckets: the length at which each but the first begins.
    /// Equal lengths stay together, so there may be fewer. Errors: ArgumentException for less than one bucket.
    let quantileEdges (buckets: int) (lengths: int[]) : int[] =
        if buckets < 1 then
            invalidArg (nameof buckets) "there must be at least one bucket."

        let sorted = Array.sort lengths

        if sorted.Length = 0 then
            [||]
        else
            [| for i in 1 .. buckets - 1 -> sorted[int (int64 i * int64 sorted.Length / int64 buckets)] |]
            |> Array.distinct
            |> Array.filter (fun edge -> edge > sorted[0])

    /// The row of a picture's grid that a place is in. Errors: InputException for a place that the grid has not.
    let internal rowOf (struct (height, width): struct (int * int)) (place: int) : int =
        if place >= height * width then
            raise (
                InputException
                    $"a picture has more than {height * width} codes, which is what a grid of {height} rows and {width} columns has; give the grid of these tokens."
            )

        place / width

    let private bucketOf (edges: int[]) (length: int) : int =
        let mutable bucket = 0

        while bucket < edges.Length && edges[bucket] <= length do
            bucket <- bucket + 1

        bucket

    /// Sums that grow with the places that occur.
    type private Growing() =
        let mutable counts, full, within = Array.empty<int64>, Array.empty<float>, Array.empty<float>

        member _.Add(place: int, whole: float, own: float) : unit =
            if place >= counts.Length then
                let length = max (place + 1) (2 * counts.Length)
                Array.Resize(&counts, length)
                Array.Resize(&full, length)
                Array.Resize(&within, length)

            counts[place] <- counts[place] + 1L
            full[place] <- full[place] + whole
            within[place] <- within[place] + own

        /// At least so many places, and no more than occurred beyond them.
        member _.Sums(atLeast: int) : PlaceSums =
            let used = max atLeast (1 + Array.FindLastIndex(counts, (fun count -> count > 0L)))

            let cut (x: 'n[]) = Array.init used (fun i -> if i < x.Length then x[i] else Unchecked.defaultof<'n>)

            { Count = cut counts; Full = cut full; Within = cut within }

    let private check (plan: PlacePlan) : unit =
        let struct (height, width) = plan.Grid

        if height < 0 || width < 0 || (height = 0) <> (width = 0) then
            invalidArg (nameof plan) $"a grid of {height} by {width} has no places."

        if plan.CaptionEdges |> Array.pairwise |> Array.exists (fun (a, b) -> a >= b) then
            invalidArg (nameof plan) "the edges of buckets must grow."

    /// Losses by place of the sequences of a batch, from −log p of each target, [N] fp32, over the whole vocabulary and within its own
    /// kind (`Loss.withinModality`). Errors: InputException for a picture of more codes than the grid has; ArgumentException for a
    /// plan that is none.
    let ofValues
        (plan: PlacePlan)
        (vocabulary: Vocabulary)
        (sequences: int64[][])
        (batch: Batch)
        (crossEntropy_N: torch.Tensor)
        (within_N: torch.Tensor)
        : LossPlaces =
        check plan
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        // As few transfers as possible: both in one, [2, B, T].
        let both = torch.stack ([| Sequence.byRow batch crossEntropy_N; Sequence.byRow batch within_N |])
        let values = both.``to``(torch.float32).cpu().contiguous().data<float32>().ToArray()
        let columns = int both.shape[2]
        let half = sequences.Length * columns
        let struct (height, width) = plan.Grid
        let image, rows, imageColumns = Growing(), Growing(), Growing()
        let text, marks, textByCaption, imageByCaption = Growing(), Growing(), Growing(), Growing()

        for i in 0 .. sequences.Length - 1 do
            let tokens = places vocabulary sequences[i]

            for t in 1 .. min columns (tokens.Length - 1) do
                let token = tokens[t]
                let at = i * columns + t - 1
                let full, within = float values[at], float values[half + at]

                match token.Kind with
                | Kind.Text ->
                    text.Add(token.Place, full, within)
                    textByCaption.Add(bucketOf plan.CaptionEdges token.Caption, full, within)
                | Kind.Image ->
                    image.Add(token.Place, full, within)
                    imageByCaption.Add(bucketOf plan.CaptionEdges token.Caption, full, within)

                    if width > 0 then
                        rows.Add(rowOf plan.Grid token.Place, full, within)
                        imageColumns.Add(token.Place % width, full, within)
                | Kind.Structure -> marks.Add(token.Place, full, within)
                | _ -> ()

        let buckets = plan.CaptionEdges.Length + 1

        {
            Image = image.Sums(height * width)
            ImageRows = rows.Sums height
            ImageColumns = imageColumns.Sums width
            Text = text.Sums 0
            Marks = marks.Sums 6
            CaptionEdges = plan.CaptionEdges
            TextByCaption = textByCaption.Sums buckets
            ImageByCaption = imageByCaption.Sums buckets
        }

    /// `ofValues` of a scored batch.
    let ofScored (plan: PlacePlan) (sequences: int64[][]) (batch: Batch) (scored: Scored) : LossPlaces =
        use _ = torch.no_grad ()
        use within = Loss.withinModality scored
        ofValues plan scored.Vocabulary sequences batch scored.CrossEntropy within

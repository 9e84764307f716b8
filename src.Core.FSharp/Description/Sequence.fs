/// Sequences: the only place where tokens are composed, and where targets, kinds and masks are made.
namespace Hybrid

open System
open System.Runtime.InteropServices
open TorchSharp

/// How a caption and its picture become a sequence.
type Form =
    /// `<doc> <text> caption </text> <image> codes </image> </doc>`
    | Captioned
    /// `<doc> <image> codes </image> </doc>`
    | ImageOnly
    /// `<doc> <text> caption </text> </doc>`
    | TextOnly
    /// `<doc> <text> </text> <image> codes </image> </doc>`: what classifier-free guidance calls unconditional
    | CaptionDropped

/// What becomes of the padding at the ends of sequences.
type PaddingRule =
    /// Positions after a sequence's last target that counts are left out; nothing that counts sees them
    | Dropped
    /// Every position is computed
    | Kept

/// Where the positions of a packed batch stand: N of the B · T places of its rows. Only attention looks at rows.
[<NoEquality; NoComparison>]
type PackedRows =
    {
        /// B
        Sequences: int64
        /// T, the positions of the longest row
        Positions: int64
        /// [N] int64: the place of each position, row · T + column, rising
        Places: torch.Tensor
        /// [B · T] int64: the position at each place, N where there is none
        Sources: torch.Tensor
    }

/// A batch ready for a model: position t of `Inputs` predicts `Targets` at t.
[<NoEquality; NoComparison>]
type Batch =
    {
        /// [B, T] int64, or [N] where rows are packed
        Inputs: torch.Tensor
        /// int64, the shape of `Inputs`
        Targets: torch.Tensor
        /// int64, the shape of `Inputs`: the `Kind` of each target
        Kinds: torch.Tensor
        /// Targets of each kind in the batch: text, image, structure
        Counts: int64[]
        /// Positions of its sequences before padding was left out
        Length: int64
        /// Where positions stand when those of all rows follow each other without gaps
        Rows: PackedRows option
    }

    /// Targets that count.
    member b.Count = Array.sum b.Counts

/// Composing sequences from captions and codes, taking them apart, and making batches of them. Nothing else does.
module Sequence =

    /// Marks that a form adds around its caption and codes.
    let marks (form: Form) : int =
        match form with
        | Captioned
        | CaptionDropped -> 6
        | ImageOnly
        | TextOnly -> 4

    /// Tokens of a form before padding.
    let length (form: Form) (caption: int) (codes: int) : int =
        match form with
        | Captioned -> marks form + caption + codes
        | ImageOnly
        | CaptionDropped -> marks form + codes
        | TextOnly -> marks form + caption

    /// The longest caption that fits beside `codes` image codes in `length` positions: 122 for the paper's 1,152 and 1,024.
    let captionLimit (length: int) (codes: int) : int = length - codes - marks Captioned

    /// The tokens up to and including `<image>`: what a picture is generated from.
    let prompt (vocabulary: Vocabulary) (caption: int[]) : int64[] =
        [|
            yield int64 vocabulary.Doc
            yield int64 vocabulary.Text
            yield! Array.map int64 caption
            yield int64 vocabulary.EndText
            yield int64 vocabulary.Image
        |]

    /// Writes ids, counted from `first` in the table, from a place on; `refuse` gives the sentence for one that is not below `count`.
    let private write (tokens: int64[]) (place: int) (first: int) (count: int) (refuse: int -> string) (ids: int[]) : unit =
        for i = 0 to ids.Length - 1 do
            if uint32 ids[i] >= uint32 count then
                raise (InputException(refuse ids[i]))

            tokens[place + i] <- int64 (first + ids[i])

    /// Composes one sequence, padded with `<pad>` to `positions`. Errors: InputException when it does not fit, or when a caption id
    /// or a code is outside its range.
    let compose (vocabulary: Vocabulary) (form: Form) (positions: int) (caption: int[]) (codes: int[]) : int64[] =
        let needed = length form caption.Length codes.Length

        if needed > positions then
            raise (
                InputException
                    $"a sequence of {needed} tokens ({caption.Length} of the caption, {codes.Length} of the picture) does not fit in {positions} positions."
            )

        let tokens = Array.create positions (int64 vocabulary.Pad)
        tokens[0] <- int64 vocabulary.Doc
        let mutable place = 1

        if form <> ImageOnly then
            let caption = if form = CaptionDropped then [||] else caption
            tokens[1] <- int64 vocabulary.Text

            caption
            |> write tokens 2 0 vocabulary.TextRows (fun id ->
                $"caption token {id} is outside the {vocabulary.TextRows} text rows.")

            tokens[2 + caption.Length] <- int64 vocabulary.EndText
            place <- 3 + caption.Length

        if form <> TextOnly then
            tokens[place] <- int64 vocabulary.Image

            codes
            |> write tokens (place + 1) vocabulary.FirstCode vocabulary.ImageCodes (fun code ->
                $"image code {code} is outside the {vocabulary.ImageCodes} codes.")

            tokens[place + 1 + codes.Length] <- int64 vocabulary.EndImage
            place <- place + 2 + codes.Length

        tokens[place] <- int64 vocabulary.EndDoc
        tokens

    /// Takes a sequence apart again: its form, caption and codes. Errors: InputException when it is not one that `compose` makes.
    let decompose (vocabulary: Vocabulary) (tokens: int64[]) : Form * int[] * int[] =
        let mutable place = 0

        let fail wanted =
            let found = if place < tokens.Length then string tokens[place] else "the end"
            raise (InputException $"position {place} of the sequence holds {found} where {wanted} was expected.")

        let at (id: int) = place < tokens.Length && tokens[place] = int64 id

        let expect (id: int) name = if at id then place <- place + 1 else fail name

        let span kind =
            let start = place

            while place < tokens.Length && Vocabulary.kind vocabulary tokens[place] = kind do
                place <- place + 1

            tokens[start .. place - 1]

        expect vocabulary.Doc "<doc>"

        let caption =
            if at vocabulary.Text then
                place <- place + 1
                let ids = span Kind.Text
                expect vocabulary.EndText "</text>"
                Some(Array.map int ids)
            else
                None

        let codes =
            if at vocabulary.Image then
                place <- place + 1
                let ids = span Kind.Image
                expect vocabulary.EndImage "</image>"
                Some(ids |> Array.map (fun id -> int id - vocabulary.FirstCode))
            else
                None

        expect vocabulary.EndDoc "</doc>"

        while place < tokens.Length do
            expect vocabulary.Pad "<pad>"

        match caption, codes with
        | Some caption, None -> TextOnly, caption, [||]
        | Some [||], Some codes -> CaptionDropped, [||], codes
        | Some caption, Some codes -> Captioned, caption, codes
        | None, Some codes -> ImageOnly, [||], codes
        | None, None -> fail "<text> or <image>"

    /// Input positions of a sequence up to its last target that counts; 0 where none does. Errors: none; ids outside the table count.
    let counted (vocabulary: Vocabulary) (sequence: int64[]) : int =
        let pad = if vocabulary.Pad < vocabulary.Rows then int64 vocabulary.Pad else -1L
        let mutable last = sequence.Length - 1

        while last > 0 && sequence[last] = pad do
            last <- last - 1

        max 0 last

    /// Targets of each kind in a sequence: text, image, structure, ignored.
    let counts (vocabulary: Vocabulary) (sequence: int64[]) : int64[] =
        let counts = Array.zeroCreate<int64> 4

        for t = 1 to sequence.Length - 1 do
            let kind = int (Vocabulary.kind vocabulary sequence[t])
            counts[kind] <- counts[kind] + 1L

        counts

    // Fewer gaps than one in so many places cost less than packing.
    let private fewGaps = 32L

    // From these sizes on, positions come in multiples of a few.
    let private manyPositions = 64
    let private manyInAll = 1024

    /// The columns of a packed batch, and how many of each row are kept, from how many each needs: a little more, in multiples of 8 and of
    /// 64 in all, where `limit` columns allow it. Each new shape costs compiled products and memory of its own, and batches hardly ever
    /// have the same number of positions. Small batches are left as they are.
    let roundedUp (limit: int) (used: int[]) : int * int[] =
        let up (unit: int) (count: int) = (count + unit - 1) / unit * unit
        let longest = Array.max used
        let positions = if longest < manyPositions then longest else min limit (up 8 longest)
        let all = Array.sum used
        let mutable missing = if all < manyInAll then 0 else up 64 all - all

        positions,
        used
        |> Array.map (fun count ->
            let more = min missing (positions - count)
            missing <- missing - more
            count + more)

    /// Writes what `batch` has on the host, piece after piece: inputs, targets and kinds of the first `used[i]` positions of each
    /// sequence, or of all T; where rows are packed, places and sources too. Counts kinds.
    let private fill
        (vocabulary: Vocabulary)
        (sequences: int64[][])
        (used: int[])
        (positions: int)
        (packed: bool)
        (counts: int64[])
        (memory: Span<int64>)
        : unit =
        let all = if packed then Array.sum used else sequences.Length * positions
        let inputs = memory.Slice(0, all)
        let targets = memory.Slice(all, all)
        let kinds = memory.Slice(2 * all, all)
        let mutable n = 0

        for i = 0 to sequences.Length - 1 do
            let sequence = sequences[i]

            for t = 0 to (if packed then used[i] else positions) - 1 do
                let id = sequence[t + 1]
                let kind = int (Vocabulary.kind vocabulary id)
                inputs[n] <- sequence[t]
                targets[n] <- id
                kinds[n] <- int64 kind
                counts[kind] <- counts[kind] + 1L
                n <- n + 1

        if packed then
            let places = memory.Slice(3 * all, all)
            let sources = memory.Slice(4 * all)
            sources.Fill(int64 all)
            n <- 0

            for i = 0 to sequences.Length - 1 do
                for t = 0 to used[i] - 1 do
                    let place = i * positions + t
                    places[n] <- int64 place
                    sources[place] <- int64 n
                    n <- n + 1

    /// A host tensor, in memory that a device reads by itself where it can.
    let private host (device: torch.Device) (count: int) : torch.Tensor =
        let memory = torch.empty ([| int64 count |], dtype = torch.int64)
        if device.``type`` = DeviceType.CUDA then memory.pin_memory () else memory

    /// A batch from sequences of one length L: inputs are positions 0..L−2, targets 1..L−1. Dropping padding leaves out what comes
    /// after each sequence's last target that counts: rows end where the longest does, and where they differ by much their positions
    /// are packed. The caller owns the tensors. Errors: ShapeException when lengths differ, InputException for an id outside the table.
    let batchOf (padding: PaddingRule) (vocabulary: Vocabulary) (device: torch.Device) (sequences: int64[][]) : Batch =
        let length = if sequences.Length = 0 then 0 else sequences[0].Length

        if length < 2 || sequences |> Array.exists (fun s -> s.Length <> length) then
            raise (ShapeException "a batch needs at least one sequence, and sequences of one length of at least 2.")

        for i = 0 to sequences.Length - 1 do
            if not (Vocabulary.holds vocabulary sequences[i]) then
                Vocabulary.check vocabulary $"sequence {i} of the batch" sequences[i]

        let used =
            match padding with
            | Kept -> Array.create sequences.Length (length - 1)
            | Dropped ->
                let used = Array.map (counted vocabulary) sequences
                // Nothing counts: one position of each keeps tensors from being empty.
                if Array.forall ((=) 0) used then Array.create sequences.Length 1 else used

        let positions, used = roundedUp (length - 1) used
        let all, places = Array.sum used, sequences.Length * positions
        let packed = int64 (places - all) * fewGaps > int64 places
        let n = if packed then all else places
        let counts = Array.zeroCreate<int64> 4
        use scope = torch.NewDisposeScope()
        let memory = host device (if packed then 4 * n + places else 3 * n)
        fill vocabulary sequences used positions packed counts (MemoryMarshal.Cast<byte, int64> memory.bytes)

        // The copy does not wait; torch keeps pinned memory until it is done.
        let tokens = memory.``to`` (device, non_blocking = true)
        let piece (index: int) (length: int) = tokens.narrow (0, int64 index * int64 n, int64 length)

        let shaped (index: int) : torch.Tensor =
            let piece = piece index n
            let piece = if packed then piece else piece.view (int64 sequences.Length, int64 positions)
            piece.MoveToOuterDisposeScope()

        {
            Inputs = shaped 0
            Targets = shaped 1
            Kinds = shaped 2
            Counts = counts[0..2]
            Length = int64 length - 1L
            Rows =
                if packed then
                    Some
                        {
                            Sequences = int64 sequences.Length
                            Positions = int64 positions
                            Places = (piece 3 n).MoveToOuterDisposeScope()
                            Sources = (piece 4 places).MoveToOuterDisposeScope()
                        }
                else
                    None
        }

    /// `batchOf` with its padding kept: [B, L−1].
    let batch (vocabulary: Vocabulary) (device: torch.Device) (sequences: int64[][]) : Batch =
        batchOf Kept vocabulary device sequences

    /// The micro-batches of a step, of up to `size` sequences each. Where padding is dropped and there are several, sequences of like
    /// length come together, the longest first, equal ones in the order given; which sequences the step sees is the same. The caller
    /// owns the tensors. Errors: those of `batchOf`.
    let microBatches
        (padding: PaddingRule)
        (vocabulary: Vocabulary)
        (device: torch.Device)
        (size: int)
        (sequences: int64[][])
        : Batch[] =
        let ordered =
            if padding = Dropped && size < sequences.Length then
                sequences |> Seq.sortBy (fun sequence -> -(counted vocabulary sequence)) |> Seq.toArray
            else
                sequences

        Array.chunkBySize size ordered |> Array.map (batchOf padding vocabulary device)

    /// Values of a batch's positions, [N], by row: [B, T], 0 where a row has none.
    let byRow (batch: Batch) (values_N: torch.Tensor) : torch.Tensor =
        match batch.Rows with
        | None -> values_N.reshape batch.Inputs.shape
        | Some rows ->
            use scope = torch.NewDisposeScope()
            let zero = torch.zeros ([| 1L |], dtype = values_N.dtype, device = values_N.device)
            let spread = torch.cat([| values_N; zero |], 0L).index_select(0L, rows.Sources)
            spread.view(rows.Sequences, rows.Positions).MoveToOuterDisposeScope()

    /// Releases a batch's tensors.
    let release (batch: Batch) : unit =
        batch.Inputs.Dispose()
        batch.Targets.Dispose()
        batch.Kinds.Dispose()

        match batch.Rows with
        | Some rows ->
            rows.Places.Dispose()
            rows.Sources.Dispose()
        | None -> ()

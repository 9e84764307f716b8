/// Sequences: the only place where tokens are composed, and where targets, kinds and masks are made.
namespace Hybrid

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

/// A batch ready for a model: position t of `Inputs` predicts `Targets` at t.
[<NoEquality; NoComparison>]
type Batch =
    {
        /// [B, T] int64
        Inputs: torch.Tensor
        /// [B, T] int64
        Targets: torch.Tensor
        /// [B, T] int64, the `Kind` of each target
        Kinds: torch.Tensor
        /// Targets of each kind in the batch: text, image, structure
        Counts: int64[]
    }

    /// Targets that count.
    member b.Count = Array.sum b.Counts

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

    /// Composes one sequence, padded with `<pad>` to `length`. Errors: InputException when it does not fit, or when a caption id
    /// or a code is outside its range.
    let compose (vocabulary: Vocabulary) (form: Form) (length: int) (caption: int[]) (codes: int[]) : int64[] =
        let tokens: int64[] =
            [|
                yield int64 vocabulary.Doc

                if form <> ImageOnly then
                    yield int64 vocabulary.Text

                    if form <> CaptionDropped then
                        for id in caption do
                            if id < 0 || id >= vocabulary.TextRows then
                                raise (InputException $"caption token {id} is outside the {vocabulary.TextRows} text rows.")

                            yield int64 id

                    yield int64 vocabulary.EndText

                if form <> TextOnly then
                    yield int64 vocabulary.Image

                    for code in codes do
                        if code < 0 || code >= vocabulary.ImageCodes then
                            raise (InputException $"image code {code} is outside the {vocabulary.ImageCodes} codes.")

                        yield int64 (vocabulary.FirstCode + code)

                    yield int64 vocabulary.EndImage

                yield int64 vocabulary.EndDoc
            |]

        if tokens.Length > length then
            raise (
                InputException
                    $"a sequence of {tokens.Length} tokens ({caption.Length} of the caption, {codes.Length} of the picture) does not fit in {length} positions."
            )

        Array.append tokens (Array.create (length - tokens.Length) (int64 vocabulary.Pad))

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

    /// A batch from sequences of one length L: inputs are positions 0..L−2, targets 1..L−1. The caller owns the tensors.
    /// Errors: ShapeException when lengths differ, InputException for an id outside the table.
    let batch (vocabulary: Vocabulary) (device: torch.Device) (sequences: int64[][]) : Batch =
        let length = if sequences.Length = 0 then 0 else sequences[0].Length

        if length < 2 || sequences |> Array.exists (fun s -> s.Length <> length) then
            raise (ShapeException "a batch needs at least one sequence, and sequences of one length of at least 2.")

        let counts = Array.zeroCreate<int64> 4

        for i = 0 to sequences.Length - 1 do
            Vocabulary.check vocabulary $"sequence {i} of the batch" (sequences[i])

            for t = 1 to length - 1 do
                let kind = int (Vocabulary.kind vocabulary (sequences[i][t]))
                counts[kind] <- counts[kind] + 1L

        use scope = torch.NewDisposeScope()

        let tokens = Host.int64s [ int64 sequences.Length; int64 length ] (Array.concat sequences) |> Host.onto device

        let inputs = tokens.narrow(1, 0L, int64 length - 1L).contiguous()
        let targets = tokens.narrow(1, 1L, int64 length - 1L).contiguous()

        {
            Inputs = inputs.MoveToOuterDisposeScope()
            Targets = targets.MoveToOuterDisposeScope()
            Kinds = (Vocabulary.kinds vocabulary targets).MoveToOuterDisposeScope()
            Counts = counts[0..2]
        }

    /// Releases a batch's tensors.
    let release (batch: Batch) : unit =
        batch.Inputs.Dispose()
        batch.Targets.Dispose()
        batch.Kinds.Dispose()

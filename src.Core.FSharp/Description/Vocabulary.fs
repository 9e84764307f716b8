/// Ids, kinds and the layout of the table: the rows of the pre-trained table first, then the structure marks, `<pad>`, and the
/// image codes. Rows that pad the table to a rounder size may follow; they have no id and never receive probability.
namespace Hybrid

open TorchSharp

/// What a target is, and so which part of the loss it belongs to.
type Kind =
    /// A token of a caption or a text
    | Text = 0
    /// An image code
    | Image = 1
    /// One of the six marks
    | Structure = 2
    /// `<pad>`: counts in no part
    | Ignored = 3

/// The layout of a table; without image codes it is a plain text table, which has no marks either.
type Vocabulary =
    {
        /// Rows of the pre-trained text table, its own padding rows included
        TextRows: int
        /// Codes of the image tokenizer, or 0
        ImageCodes: int
    }

    /// The id of `<doc>`.
    member v.Doc = v.TextRows
    /// The id of `</doc>`.
    member v.EndDoc = v.TextRows + 1
    /// The id of `<text>`.
    member v.Text = v.TextRows + 2
    /// The id of `</text>`.
    member v.EndText = v.TextRows + 3
    /// The id of `<image>`.
    member v.Image = v.TextRows + 4
    /// The id of `</image>`.
    member v.EndImage = v.TextRows + 5
    /// The id of `<pad>`.
    member v.Pad = v.TextRows + 6

    /// The id of image code 0.
    member v.FirstCode = v.TextRows + 7

    /// Rows that have an id.
    member v.Rows = if v.ImageCodes = 0 then v.TextRows else v.FirstCode + v.ImageCodes

/// Which kind a token is of, and the ids of each kind.
module Vocabulary =

    /// The structure marks and `<pad>` as text, in the order of their ids.
    let marks: string list = [ "<doc>"; "</doc>"; "<text>"; "</text>"; "<image>"; "</image>"; "<pad>" ]

    /// The kinds whose losses add up to the total, in the order in which sums and counts of them stand.
    let counted: Kind list = [ Kind.Text; Kind.Image; Kind.Structure ]

    /// The layout of a text table that nothing was added to.
    let plainText (rows: int) : Vocabulary = { TextRows = rows; ImageCodes = 0 }

    /// The kind of an id. Errors: none; an id beyond the table is `Ignored`, and `check` is what refuses it.
    let kind (vocabulary: Vocabulary) (id: int64) : Kind =
        if id < 0L || id >= int64 vocabulary.Rows || id = int64 vocabulary.Pad then Kind.Ignored
        elif id < int64 vocabulary.TextRows then Kind.Text
        elif id < int64 vocabulary.Pad then Kind.Structure
        else Kind.Image

    /// The kinds of ids [...]: int64 in, int64 out, same shape.
    let kinds (vocabulary: Vocabulary) (ids: torch.Tensor) : torch.Tensor =
        Shape.requireType "ids" torch.int64 ids
        use scope = torch.NewDisposeScope()
        let boundary (id: int) = ids.ge(Scalars.Of(id)).``to``(torch.int64)

        // Text 0 -> Structure +2 -> Ignored +1 -> Image −2, along the layout of the table.
        let result =
            boundary(vocabulary.TextRows)
                .mul_(Scalars.Of(2))
                .plus_(boundary vocabulary.Pad)
                .sub_(boundary(vocabulary.FirstCode).mul_(Scalars.Of(2)))

        let outside = ids.lt(Scalars.Of(0)).logical_or_(ids.ge (Scalars.Of(vocabulary.Rows)))
        let result = result.masked_fill_ (outside, Scalars.Of(int (Kind.Ignored)))
        result.MoveToOuterDisposeScope()

    /// The columns [first, first + count) of a kind's ids; none of the marks and codes in a plain text table.
    let columns (vocabulary: Vocabulary) (kind: Kind) : struct (int64 * int64) =
        match kind with
        | Kind.Text -> struct (0L, int64 vocabulary.TextRows)
        | _ when vocabulary.ImageCodes = 0 -> struct (int64 vocabulary.TextRows, 0L)
        | Kind.Structure -> struct (int64 vocabulary.TextRows, 6L)
        | Kind.Image -> struct (int64 vocabulary.FirstCode, int64 vocabulary.ImageCodes)
        | _ -> struct (int64 vocabulary.Pad, 1L)

    /// Whether every id lies in the table.
    let holds (vocabulary: Vocabulary) (ids: int64[]) : bool =
        let rows = uint64 vocabulary.Rows
        let mutable place = 0

        while place < ids.Length && uint64 ids[place] < rows do
            place <- place + 1

        place = ids.Length

    /// Checks that every id lies in the table. Errors: InputException naming the first bad one and its place.
    let check (vocabulary: Vocabulary) (source: string) (ids: int64[]) : unit =
        let bad = ids |> Array.tryFindIndex (fun id -> id < 0L || id >= int64 vocabulary.Rows)

        match bad with
        | Some place ->
            raise (
                InputException
                    $"{source}: token {ids[place]} at position {place} is outside the vocabulary of {vocabulary.Rows} ids ({vocabulary.TextRows} text rows, 7 marks, {vocabulary.ImageCodes} image codes); check the text rows and image codes that were given."
            )
        | None -> ()

/// Parameters by what they are for: what gradients and distances are summed up over.
namespace Hybrid

open System
open TorchSharp

/// Rows of a parameter that belong to one group.
type ParameterPiece =
    {
        /// Such as "embedding, text rows" or "layer 0 attention"
        Group: string
        /// The layer, counted from 0; −1 where it belongs to none
        Layer: int
        Parameter: string
        FirstRow: int64
        Rows: int64
        /// Values of a row
        RowLength: int64
    }

    member p.Count = p.Rows * p.RowLength

/// Inner products of two vectors a and b.
[<Struct>]
type InnerProducts =
    {
        Count: int64
        /// a · a
        First: float
        /// b · b
        Second: float
        /// a · b
        Both: float
        /// (a − b) · (a − b)
        Difference: float
    }

    static member (+)(x: InnerProducts, y: InnerProducts) : InnerProducts =
        {
            Count = x.Count + y.Count
            First = x.First + y.First
            Second = x.Second + y.Second
            Both = x.Both + y.Both
            Difference = x.Difference + y.Difference
        }

    static member Zero: InnerProducts = { Count = 0L; First = 0.0; Second = 0.0; Both = 0.0; Difference = 0.0 }

    /// The cosine between a and b, within [−1, 1]; nan where one of them is 0.
    member p.Cosine: float =
        let lengths = sqrt p.First * sqrt p.Second
        if lengths > 0.0 then Math.Clamp(p.Both / lengths, -1.0, 1.0) else nan

module ParameterGroups =

    /// The group of the norms, wherever they stand.
    let norms: string = "norms"

    /// The pieces that rows of the table are cut into by a vocabulary, in order: each name, its first row and how many it has.
    let private tableRows (vocabulary: Vocabulary) (rows: int64) : (string * int64 * int64) list =
        let text, first, ids = int64 vocabulary.TextRows, int64 vocabulary.FirstCode, int64 vocabulary.Rows

        [
            "text rows", 0L, text
            if vocabulary.ImageCodes > 0 then
                "marks", text, first - text
                "image rows", first, ids - first
            "padding rows", ids, rows - ids
        ]
        |> List.filter (fun (_, _, count) -> count > 0L)

    /// The pieces of a parameter, which together are the whole of it: rows of the two tables by the kind of their ids, each layer's
    /// attention and feed-forward layer, all norms, learned positions.
    let pieces (vocabulary: Vocabulary) (spec: ParameterSpec) : ParameterPiece list =
        let rows = spec.Shape.Head

        let piece (group: string) (layer: int) (first: int64) (count: int64) =
            {
                Group = group
                Layer = layer
                Parameter = spec.Name
                FirstRow = first
                Rows = count
                RowLength = spec.Count / rows
            }

        let table (name: string) =
            [ for part, first, count in tableRows vocabulary rows -> piece $"{name}, {part}" -1 first count ]

        match spec.Name.Split '.' with
        | [| "tok_embeddings"; _ |] -> table "embedding"
        | [| "output"; _ |] -> table "head"
        | [| "pos_embeddings"; _ |] -> [ piece "positions" -1 0L rows ]
        | parts when parts[0] = "layers" ->
            let layer = int parts[1]

            let group =
                if spec.Name.Contains "norm." then norms
                elif parts[2] = "attention" then $"layer {layer} attention"
                else $"layer {layer} feed-forward"

            [ piece group layer 0L rows ]
        | _ -> [ piece norms -1 0L rows ]

    // In double precision this many values at a time: the copies stay small.
    let private atOnce = 1L <<< 20

    /// Inner products of two flat tensors of any element type, in double precision: [4] fp64 on their device (a·a, b·b, a·b,
    /// |a − b|²), which the caller owns.
    let products (a: torch.Tensor) (b: torch.Tensor) : torch.Tensor =
        use _ = torch.no_grad ()
        use scope = torch.NewDisposeScope()
        let sums = torch.zeros ([| 4L |], dtype = torch.float64, device = a.device)

        for start in 0L .. atOnce .. a.shape[0] - 1L do
            use _ = torch.NewDisposeScope()
            let part (x: torch.Tensor) = x.narrow(0L, start, min atOnce (a.shape[0] - start)).``to`` torch.float64
            let x, y = part a, part b
            let difference = x.sub y
            sums.plus_ (torch.stack [| x.dot x; y.dot y; x.dot y; difference.dot difference |]) |> ignore

        sums.MoveToOuterDisposeScope()

    /// A piece's values in a flat tensor of the whole parameter, or of more, in which it begins at `offset`.
    let slice (flat: torch.Tensor) (offset: int64) (piece: ParameterPiece) : torch.Tensor =
        flat.narrow (0L, offset + piece.FirstRow * piece.RowLength, piece.Count)

    /// Inner products from what `products` gave, read at once: each with its count of values.
    let read (sums: (int64 * torch.Tensor) list) : InnerProducts list =
        if sums.IsEmpty then
            []
        else
            use _ = torch.NewDisposeScope()
            let values = torch.stack([| for _, sum in sums -> sum |]).cpu().data<float>().ToArray()

            sums
            |> List.mapi (fun i (count, _) ->
                {
                    Count = count
                    First = values[4 * i]
                    Second = values[4 * i + 1]
                    Both = values[4 * i + 2]
                    Difference = values[4 * i + 3]
                })

    /// Where a group stands among the others: embedding, positions, layer by layer, norms, head.
    let private rank (piece: ParameterPiece) : int =
        if piece.Group = norms then Int32.MaxValue - 1
        elif piece.Parameter = "output.weight" then Int32.MaxValue
        else piece.Layer

    /// Inner products summed up by group, from the embedding to the head: each with its layer, −1 where it has several.
    let sums (pieces: ParameterPiece list) (products: InnerProducts list) : (string * int * InnerProducts) list =
        List.zip pieces products
        |> List.groupBy (fun (piece, _) -> piece.Group)
        |> List.sortBy (fun (_, members) -> rank (fst members.Head))
        |> List.map (fun (group, members) ->
            match members |> List.map (fun (piece, _) -> piece.Layer) |> List.distinct with
            | [ layer ] -> group, layer, List.sumBy snd members
            | _ -> group, -1, List.sumBy snd members)

namespace Hybrid

open TorchSharp

/// Large pictures in overlapping tiles: where tiles stand, and how what they give is put together. Along an axis everything is in cells,
/// one for each row or column of codes, so that the same tiles serve pictures and grids.
module ImageTiles =

    /// The tiles along an axis: where each starts, and how many cells each has.
    type Axis =
        {
            /// The first cell of each tile
            Starts: int64 list
            /// Cells of every tile
            Length: int64
        }

    /// Tiles of at most `tile` cells over an axis of `length` cells: one where it is no longer than a tile, else tiles that overlap by at
    /// least a quarter, as evenly as whole cells allow, the first at the start and the last at the end.
    let axis (length: int64) (tile: int64) : Axis =
        if length <= tile then
            { Starts = [ 0L ]; Length = length }
        else
            let overlap = max 1L ((tile + 3L) / 4L) |> min (tile - 1L)
            let count = (length - overlap + (tile - overlap) - 1L) / (tile - overlap)

            { Starts = [ for i in 0L .. count - 1L -> i * (length - tile) / (count - 1L) ]; Length = tile }

    /// How deep a position lies in a tile: its distance to the nearer end, where an end that is the axis's own does not count.
    let private depth (length: int64) (axis: Axis) (start: int64) (position: float) =
        let before = if start = 0L then infinity else position - float start
        let last = start + axis.Length
        let behind = if last = length then infinity else float last - position
        min before behind

    /// For every cell of an axis, the number of the tile in which it lies deepest; the first of equals.
    let owners (length: int64) (axis: Axis) : int[] =
        [|
            for cell in 0L .. length - 1L ->
                axis.Starts
                |> List.indexed
                |> List.filter (fun (_, start) -> start <= cell && cell < start + axis.Length)
                |> List.maxBy (fun (number, start) -> depth length axis start (float cell + 0.5), -number)
                |> fst
        |]

    /// How much each tile counts at each pixel of its axis, [pixels of a tile] for each tile: rising linearly from its ends over the
    /// overlaps, 1 in all at every pixel. `stride` pixels stand in a cell.
    let shares (length: int64) (stride: int64) (axis: Axis) : float32[] list =
        // Half the tile is the most that a pixel can lie deep; a tile without inner ends counts alone wherever it is alone.
        let deep (start: int64) (pixel: int64) =
            let position = (float pixel + 0.5) / float stride
            min (depth length axis start position) (float axis.Length)

        let total = Array.zeroCreate<float>(int (length * stride))

        for start in axis.Starts do
            for pixel in start * stride .. (start + axis.Length) * stride - 1L do
                total[int pixel] <- total[int pixel] + deep start pixel

        [
            for start in axis.Starts ->
                [|
                    for pixel in start * stride .. (start + axis.Length) * stride - 1L ->
                        float32 (deep start pixel / total[int pixel])
                |]
        ]

    /// The codes of a picture by tiles, each code taken from the tile in which it lies deepest.
    /// encode: [B, C, H, W] of a tile -> int64 [B, h, w]. images_BCHW: sides multiples of `stride`. Returns int64 [B, H / stride, W / stride].
    let encode (stride: int64) (tile: int64) (encode: torch.Tensor -> torch.Tensor) (images_BCHW: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let height, width = images_BCHW.shape[2] / stride, images_BCHW.shape[3] / stride
        let rows, columns = axis height tile, axis width tile

        let codes_Bhw =
            torch.zeros ([| images_BCHW.shape[0]; height; width |], dtype = torch.int64, device = images_BCHW.device)

        // The cells that a tile owns lie together.
        let owned (owners: int[]) (number: int) =
            let first = System.Array.IndexOf(owners, number)
            first, (owners |> Seq.filter (fun owner -> owner = number) |> Seq.length)

        let rowOwners, columnOwners = owners height rows, owners width columns

        for row, top in Seq.indexed rows.Starts do
            for column, left in Seq.indexed columns.Starts do
                use _ = torch.NewDisposeScope()
                let firstRow, rowCount = owned rowOwners row
                let firstColumn, columnCount = owned columnOwners column

                if rowCount > 0 && columnCount > 0 then
                    let piece =
                        images_BCHW
                            .narrow(2L, top * stride, rows.Length * stride)
                            .narrow(3L, left * stride, columns.Length * stride)

                    let found = encode (piece.contiguous ())

                    codes_Bhw
                        .narrow(1L, int64 firstRow, int64 rowCount)
                        .narrow(2L, int64 firstColumn, int64 columnCount)
                        .copy_(
                            found
                                .narrow(1L, int64 firstRow - top, int64 rowCount)
                                .narrow(2L, int64 firstColumn - left, int64 columnCount)
                        )
                    |> ignore

        scope.MoveToOuter codes_Bhw

    /// The picture of codes by tiles, blended over the overlaps. decode: int64 [B, h, w] of a tile -> float32 [B, C, H, W].
    /// Returns float32 [B, C, h · stride, w · stride].
    let decode
        (stride: int64)
        (tile: int64)
        (channels: int64)
        (decode: torch.Tensor -> torch.Tensor)
        (codes_Bhw: torch.Tensor)
        : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let height, width = codes_Bhw.shape[1], codes_Bhw.shape[2]
        let rows, columns = axis height tile, axis width tile
        let rowShares, columnShares = shares height stride rows, shares width stride columns

        let pictures_BCHW =
            torch.zeros (
                [| codes_Bhw.shape[0]; channels; height * stride; width * stride |],
                dtype = torch.float32,
                device = codes_Bhw.device
            )

        for top, rowShare in Seq.zip rows.Starts rowShares do
            for left, columnShare in Seq.zip columns.Starts columnShares do
                use _ = torch.NewDisposeScope()
                let piece = codes_Bhw.narrow(1L, top, rows.Length).narrow(2L, left, columns.Length)
                let made = decode (piece.contiguous ())
                let share_H1 = (Host.floats [ rowShare.LongLength; 1L ] rowShare).``to`` codes_Bhw.device
                let share_1W = (Host.floats [ 1L; columnShare.LongLength ] columnShare).``to`` codes_Bhw.device

                pictures_BCHW
                    .narrow(2L, top * stride, rows.Length * stride)
                    .narrow(3L, left * stride, columns.Length * stride)
                    .plus_(made.mul_(share_H1).mul_ share_1W)
                |> ignore

        scope.MoveToOuter pictures_BCHW

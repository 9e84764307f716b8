/// The material that lies outside the repository, against which the program is held.
module Hybrid.Tests.Material

open System
open System.IO
open Expecto

let private folder: string =
    match Environment.GetEnvironmentVariable "HYBRID_TEST_DATA" with
    | null
    | "" -> Path.GetFullPath(Path.Combine(Repository.root, "..", "shared"))
    | folder -> folder

/// The full path of a file or folder of the material; where it is absent the test is skipped, saying so.
let shared (entry: string) : string =
    let path = Path.Combine(folder, entry)

    if Path.Exists path then
        path
    else
        skiptest $"{path} is not here; set HYBRID_TEST_DATA to the folder that holds {entry}"

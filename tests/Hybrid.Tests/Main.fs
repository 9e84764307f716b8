module Hybrid.Tests.Main
open Expecto
[<EntryPoint>]
let main arguments = runTestsWithCLIArgs [] arguments (testList "all" [ testCase "one" (fun () -> Expect.equal 1 1 "") ])

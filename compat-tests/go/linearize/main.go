// Linearize reads what clients did to registers and to a set, a JSON object per line, and says whether
// it can be explained by operations that each took effect at one moment between question and answer.
//
// Each key is checked for itself. An operation with outcome "fail" did not happen and is left out; so
// is a read without an answer. A write of unknown outcome may take effect at any time after it was
// asked for, or never: its answer is taken to come after everything else. A read that is marked "old" may be
// of any moment before its answer, so all that it says is that what it found had been written by then: a
// write of unknown outcome that it found has happened, and what was not written cannot be found. (No two
// writes of a key have the same value.) A cas marked "old", which found another value, says nothing. The
// searches for explanations would take for ever with such reads in them. The kinds "transfer" and
// "sum" are counted and left to others.
//
// Exit status: 0 if all keys are linearizable, 1 if one is not, 2 if the input is no history, 3 if the
// time did not suffice.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

type line struct {
	Process  int    `json:"process"`
	Kind     string `json:"kind"`
	Key      string `json:"key"`
	Value    *int64 `json:"value"`
	Expected int64  `json:"expected"`
	Swapped  bool   `json:"swapped"`
	Outcome  string `json:"outcome"`
	Old      bool   `json:"old"`
	Invoke   int64  `json:"invoke"`
	Return   int64  `json:"return"`
}

// A register holds a number or nothing.
type register struct {
	there bool
	value int64
}

type input struct {
	kind     byte // r, w, c
	value    int64
	expected int64
}

type output struct {
	unknown bool
	read    register
	swapped bool
}

var model = porcupine.Model{
	Init: func() interface{} { return register{} },
	Step: func(state, in, out interface{}) (bool, interface{}) {
		now, ask, told := state.(register), in.(input), out.(output)
		switch ask.kind {
		case 'r':
			return told.read == now, now
		case 'w':
			return true, register{true, ask.value}
		default:
			matches := now == register{true, ask.expected}
			if !told.unknown && told.swapped != matches {
				return false, now
			}
			if matches {
				return true, register{true, ask.value}
			}
			return true, now
		}
	},
	DescribeOperation: func(in, out interface{}) string {
		ask, told := in.(input), out.(output)
		switch ask.kind {
		case 'r':
			return fmt.Sprintf("read %v", told.read)
		case 'w':
			return fmt.Sprintf("write %d", ask.value)
		default:
			return fmt.Sprintf("cas %d %d: %v", ask.expected, ask.value, told.swapped)
		}
	},
}

// What old reads of a key have found, and when the first one was told.
type found map[int64]int64

func read(from io.Reader) (map[string][]porcupine.Operation, map[string]int, map[string]found, error) {
	keys := map[string][]porcupine.Operation{}
	olds := map[string]found{}
	counts := map[string]int{}
	lines := bufio.NewScanner(from)
	for number := 1; lines.Scan(); number++ {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, nil, nil, fmt.Errorf("line %d: %w", number, err)
		}
		counts[l.Kind+" "+l.Outcome]++
		if l.Outcome != "ok" && l.Outcome != "fail" && l.Outcome != "unknown" {
			return nil, nil, nil, fmt.Errorf("line %d: outcome %q", number, l.Outcome)
		}
		ask, told := input{expected: l.Expected}, output{unknown: l.Outcome == "unknown", swapped: l.Swapped}
		switch l.Kind {
		case "read", "has":
			ask.kind = 'r'
			if l.Value != nil {
				told.read = register{true, *l.Value}
			}
		case "write", "add", "cas":
			if l.Value == nil {
				return nil, nil, nil, fmt.Errorf("line %d: no value", number)
			}
			ask.kind, ask.value = 'w', *l.Value
			if l.Kind == "cas" {
				ask.kind = 'c'
			}
		case "transfer", "sum":
			continue
		default:
			return nil, nil, nil, fmt.Errorf("line %d: kind %q", number, l.Kind)
		}
		if l.Return < l.Invoke {
			return nil, nil, nil, fmt.Errorf("line %d: told before it asked", number)
		}
		if l.Old {
			if ask.kind == 'w' || ask.kind == 'c' && l.Swapped {
				return nil, nil, nil, fmt.Errorf("line %d: a write of an earlier moment", number)
			}
			if l.Outcome == "ok" && ask.kind == 'r' && l.Value != nil {
				if olds[l.Key] == nil {
					olds[l.Key] = found{}
				}
				if first, again := olds[l.Key][*l.Value]; !again || l.Return < first {
					olds[l.Key][*l.Value] = l.Return
				}
			}
			continue
		}
		if l.Outcome == "fail" || ask.kind == 'r' && told.unknown {
			continue
		}
		if told.unknown {
			l.Return = math.MaxInt64
		}
		keys[l.Key] = append(keys[l.Key], porcupine.Operation{
			ClientId: l.Process, Input: ask, Call: l.Invoke, Output: told, Return: l.Return,
		})
	}
	return keys, counts, olds, lines.Err()
}

// Makes writes whose values were found happen before that, and says what was found and not written.
func settle(history []porcupine.Operation, found found) (unwritten []string) {
	for i := range history {
		op := &history[i]
		ask, told := op.Input.(input), op.Output.(output)
		if ask.kind == 'r' || ask.kind == 'c' && !told.unknown && !told.swapped {
			continue
		}
		when, is := found[ask.value]
		if !is || when < op.Call {
			continue
		}
		delete(found, ask.value)
		if when < op.Return {
			op.Return = when
		}
		op.Output = output{swapped: ask.kind == 'c'}
	}
	for value, when := range found {
		unwritten = append(unwritten, fmt.Sprintf("%d, found at %d", value, when))
	}
	sort.Strings(unwritten)
	return unwritten
}

func main() {
	limit := flag.Duration("timeout", 5*time.Minute, "per key")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: linearize [-timeout 5m] HISTORY.jsonl")
		os.Exit(2)
	}
	file, err := os.Open(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	keys, counts, olds, err := read(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}

	illegal := 0
	for name, found := range olds {
		for _, what := range settle(keys[name], found) {
			illegal++
			fmt.Printf("key %s: NOT linearizable: nobody had written %s\n", name, what)
		}
	}

	names, operations := make([]string, 0, len(keys)), 0
	for name, of := range keys {
		names = append(names, name)
		operations += len(of)
	}
	sort.Strings(names)
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	results := make([]porcupine.CheckResult, len(names))
	for i, name := range names {
		all.Add(1)
		slots <- struct{}{}
		go func(i int, history []porcupine.Operation) {
			results[i] = porcupine.CheckOperationsTimeout(model, history, *limit)
			<-slots
			all.Done()
		}(i, keys[name])
	}
	all.Wait()

	kinds := make([]string, 0, len(counts))
	for kind := range counts {
		kinds = append(kinds, kind)
	}
	sort.Strings(kinds)
	for _, kind := range kinds {
		fmt.Printf("%8d %s\n", counts[kind], kind)
	}
	unknown := 0
	for i, name := range names {
		switch results[i] {
		case porcupine.Illegal:
			illegal++
			fmt.Printf("key %s: NOT linearizable:\n", name)
			history := keys[name]
			sort.SliceStable(history, func(a, b int) bool { return history[a].Call < history[b].Call })
			for _, op := range history {
				fmt.Printf("  client %d  %d..%d  %s\n", op.ClientId, op.Call, op.Return,
					model.DescribeOperation(op.Input, op.Output))
			}
		case porcupine.Unknown:
			unknown++
			fmt.Printf("key %s: undecided after %v, %d operations\n", name, *limit, len(keys[name]))
		}
	}
	fmt.Printf("%d keys, %d operations: %d keys not linearizable, %d undecided\n",
		len(names), operations, illegal, unknown)
	switch {
	case illegal > 0:
		os.Exit(1)
	case unknown > 0:
		os.Exit(3)
	}
}

"""What the jobs of the mix are about: questions to research, and functions to write with the tests they must pass."""

from __future__ import annotations

from typing import NamedTuple

QUESTIONS = (
    "How does a job that nobody closes come to its end?",
    "Which policies may starve a job, and what prevents that?",
    "What does the gateway do when a replica dies in the middle of an answer?",
    "How is the simulator kept equal to the live gateway?",
    "What has an application to send so that its calls are known to belong together?",
    "Why is the queue kept in the gateway and not in the engine?",
    "How do I write an ordering of my own, and where is it tested?",
    "What is in a journal, and what is it good for?",
    "How are tenants told apart, and what is fair among them?",
    "Which facts about a call may a policy look at before the call has ended?",
    "How long does one iteration of an engine last in the model?",
    "What happens to a waiting call when its client goes away?",
)


class Program(NamedTuple):
    """A function to write."""

    request: str
    head: str
    "how the answer begins: the prompt ends with it"
    tests: tuple[str, ...]


PROGRAMS = (
    Program(
        "Write is_palindrome(text): whether the letters of text read the same both ways, ignoring case and spaces.",
        "def is_palindrome(text):\n",
        (
            "assert is_palindrome('abba')",
            "assert not is_palindrome('abc')",
            "assert is_palindrome('Never odd or even')",
            "assert is_palindrome('')",
        ),
    ),
    Program(
        "Write fizzbuzz(n): 'Fizz' for multiples of 3, 'Buzz' for multiples of 5, 'FizzBuzz' for both, else str(n).",
        "def fizzbuzz(n):\n",
        (
            "assert fizzbuzz(3) == 'Fizz'",
            "assert fizzbuzz(10) == 'Buzz'",
            "assert fizzbuzz(15) == 'FizzBuzz'",
            "assert fizzbuzz(7) == '7'",
        ),
    ),
    Program(
        "Write gcd(a, b): the greatest common divisor of two integers that are 0 or more.",
        "def gcd(a, b):\n",
        ("assert gcd(12, 18) == 6", "assert gcd(7, 13) == 1", "assert gcd(0, 5) == 5", "assert gcd(9, 9) == 9"),
    ),
    Program(
        "Write count_vowels(text): how many of the characters of text are vowels, upper or lower case.",
        "def count_vowels(text):\n",
        (
            "assert count_vowels('banana') == 3",
            "assert count_vowels('') == 0",
            "assert count_vowels('AEIOU') == 5",
            "assert count_vowels('rhythm') == 0",
        ),
    ),
    Program(
        "Write factorial(n): the product of the integers from 1 to n; factorial(0) is 1.",
        "def factorial(n):\n",
        ("assert factorial(0) == 1", "assert factorial(1) == 1", "assert factorial(5) == 120"),
    ),
    Program(
        "Write reverse_words(text): the words of text in reverse order, with one space between them.",
        "def reverse_words(text):\n",
        (
            "assert reverse_words('a b c') == 'c b a'",
            "assert reverse_words('one') == 'one'",
            "assert reverse_words('  to   be ') == 'be to'",
        ),
    ),
    Program(
        "Write flatten(items): one list of all elements of a list that may hold lists in lists, from left to right.",
        "def flatten(items):\n",
        ("assert flatten([1, [2, [3]], 4]) == [1, 2, 3, 4]", "assert flatten([]) == []", "assert flatten([[]]) == []"),
    ),
    Program(
        "Write primes_up_to(n): a list of the prime numbers that are not above n, in ascending order.",
        "def primes_up_to(n):\n",
        (
            "assert primes_up_to(10) == [2, 3, 5, 7]",
            "assert primes_up_to(1) == []",
            "assert primes_up_to(2) == [2]",
            "assert len(primes_up_to(100)) == 25",
        ),
    ),
    Program(
        "Write median(numbers): the middle of the sorted numbers, or the mean of the two in the middle.",
        "def median(numbers):\n",
        ("assert median([3, 1, 2]) == 2", "assert median([4, 1, 3, 2]) == 2.5", "assert median([5]) == 5"),
    ),
    Program(
        "Write run_lengths(text): a list of pairs (character, count) for the runs of equal characters in text.",
        "def run_lengths(text):\n",
        (
            "assert run_lengths('aab') == [('a', 2), ('b', 1)]",
            "assert run_lengths('') == []",
            "assert run_lengths('zzz') == [('z', 3)]",
        ),
    ),
)
